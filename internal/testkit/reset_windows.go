package testkit

import "golang.org/x/sys/windows"

// connReset is what a read of a TCP connection returns that the other end reset:
// syscall.ECONNRESET is a number of Go's own here.
const connReset = windows.WSAECONNRESET

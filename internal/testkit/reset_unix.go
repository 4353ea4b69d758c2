//go:build unix

package testkit

import "syscall"

// connReset is what a read of a TCP connection returns that the other end reset.
const connReset = syscall.ECONNRESET

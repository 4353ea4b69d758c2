package lossy

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// lossErrors are what a machine that moves between networks, or has a firewall of
// its own, meets when it sends.
func lossErrors() [8]syscall.Errno {
	return [...]syscall.Errno{
		windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH, windows.WSAEADDRNOTAVAIL,
		windows.WSAENETDOWN, windows.WSAEACCES, windows.WSAENOBUFS, windows.WSAECONNRESET,
		windows.WSAEHOSTDOWN,
	}
}

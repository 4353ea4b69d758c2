package lossy

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// lossErrors are what a machine that moves between networks, or has a firewall of
// its own, meets when it sends. A send that had to wait ends with the error of the
// system, one that did not with that of Winsock.
func lossErrors() [11]syscall.Errno {
	return [...]syscall.Errno{
		windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH, windows.WSAEADDRNOTAVAIL,
		windows.WSAENETDOWN, windows.WSAEACCES, windows.WSAENOBUFS, windows.WSAECONNRESET,
		windows.WSAEHOSTDOWN,
		windows.ERROR_NETWORK_UNREACHABLE, windows.ERROR_HOST_UNREACHABLE, windows.ERROR_PORT_UNREACHABLE,
	}
}

package lossy

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// toldErrors are what QUIC has to know of: it finds the path's size and drops
// offloading by them.
func toldErrors() []syscall.Errno {
	return []syscall.Errno{windows.WSAEMSGSIZE, windows.WSAENOTSOCK, windows.WSAEINVAL}
}

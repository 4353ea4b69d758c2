//go:build unix

package lossy

import "syscall"

// toldErrors are what QUIC has to know of: it finds the path's size and drops
// offloading by them.
func toldErrors() []syscall.Errno {
	return []syscall.Errno{syscall.EMSGSIZE, syscall.EIO, syscall.EBADF}
}

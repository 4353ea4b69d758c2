//go:build unix

package lossy

import "syscall"

// lossErrors are what a machine that moves between networks, or has a firewall of
// its own, meets when it sends.
func lossErrors() [8]syscall.Errno {
	return [...]syscall.Errno{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.ENETDOWN,
		syscall.EPERM, syscall.ENOBUFS, syscall.ECONNREFUSED, syscall.EHOSTDOWN,
	}
}

//go:build unix

package sshconfig

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a file back to whose it was; only root can have to.
func keepOwner(path string, was fs.FileInfo) {
	if stat, ok := was.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = os.Lchown(path, int(stat.Uid), int(stat.Gid))
	}
}

//go:build unix

package atomicfile

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// openPrivate does not wait on a pipe that somebody put in the file's place.
func openPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func checkPrivate(info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&^0o600 != 0 {
		return fmt.Errorf("%w (mode is %04o)", ErrNotPrivate, mode)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w (owner unknown)", ErrNotPrivate)
	}
	if uid := int(stat.Uid); uid != os.Geteuid() && uid != 0 {
		return fmt.Errorf("%w (owner is user %d, this is user %d)", ErrNotPrivate, uid, os.Geteuid())
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

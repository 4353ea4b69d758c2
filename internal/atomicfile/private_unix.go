//go:build unix

package atomicfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// openPrivate does not wait on a pipe that somebody put in the file's place.
func openPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// protect has nothing to do: a new file is private, and fill sets the mode.
func protect(*os.File, fs.FileMode) error { return nil }

// maxService is the highest user id that systems give to service accounts.
const maxService = 999

// servant returns the owner of the folder that path is in when root asks and that
// owner is a service account: root's commands work on a service's own folder.
func servant(path string) (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return 0, 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 || stat.Uid > maxService {
		return 0, 0, false
	}
	return int(stat.Uid), int(stat.Gid), true
}

// give makes a file that root made at path the service's whose folder it is.
func give(f *os.File, path string) error {
	uid, gid, ok := servant(path)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	// A second name could be another file of root's that the service linked here.
	if !ok || stat.Uid != 0 || !info.Mode().IsRegular() || stat.Nlink > 1 {
		return nil
	}
	return f.Chown(uid, gid)
}

func checkPrivate(f *os.File, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&^0o600 != 0 {
		return fmt.Errorf("%w (mode is %04o)", ErrNotPrivate, mode)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w (owner unknown)", ErrNotPrivate)
	}
	uid := int(stat.Uid)
	if service, _, ok := servant(f.Name()); ok && uid == service {
		return nil
	}
	if uid != os.Geteuid() && uid != 0 {
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

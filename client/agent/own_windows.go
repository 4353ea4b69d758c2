package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// runtimeFolder is in the user's profile, which is closed to others.
func runtimeFolder() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "postern-run")
}

// checkOwn trusts the access list that the profile's folders inherit.
func checkOwn(folder string) error {
	info, err := os.Lstat(folder)
	if err == nil && !info.IsDir() {
		err = ErrFolder
	}
	if err != nil {
		return fmt.Errorf("look at the agent's folder: %w", err)
	}
	return nil
}

// lockPath locks a file until it is closed, or fails with ErrRunning.
func lockPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the agent's socket: %w", err)
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped)); err != nil {
		f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock the agent's socket: %w", err)
	}
	return f, nil
}

// Package atomicfile writes small files so that a reader, also one after a
// crash or a power cut, sees the whole old content or the whole new one, and
// reads private files only when they are private.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// MaxSize bounds what ReadPrivate reads, in bytes.
const MaxSize = 64 << 20

// Write replaces the file at path by data, with exactly the permissions perm
// whatever the umask is. When it returns nil the content is on the disk under
// its final name; on an error the old file is as it was and nothing is left
// beside it. A symbolic link at path is replaced, not followed. Concurrent
// writers are safe: the last rename wins, whole. What root writes into the folder of
// a service account becomes that account's.
func Write(path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	// CreateTemp makes it 0600, so a secret is never readable on its way.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // a no-op after the rename
	if err := errors.Join(protect(f, perm), fill(f, data, perm), give(f, path)); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write %s: sync its folder: %w", path, err)
	}
	return nil
}

func fill(f *os.File, data []byte, perm fs.FileMode) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Sync()
}

// Give hands an open file that root made, such as a lock or a log, to the service
// account whose folder it is in. For any other user, folder or file it does nothing.
func Give(f *os.File) error {
	if err := give(f, f.Name()); err != nil {
		return fmt.Errorf("give %s to its service: %w", f.Name(), err)
	}
	return nil
}

// ReadPrivate reads a file that holds a secret. It returns [ErrNotPrivate] when
// anyone but the owner may read or write it or when the owner is neither this
// process's user nor root, nor, for root, the service account whose folder it is in, [ErrNotRegular] for a folder, pipe or device,
// [ErrTooLarge] above MaxSize, and an error that is [fs.ErrNotExist] when there
// is none. The checks are made on the opened file, so that it cannot be
// exchanged in between. Errors never hold content.
func ReadPrivate(path string) ([]byte, error) {
	f, err := openPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("read private file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read private file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read private file %s: %w", path, ErrNotRegular)
	}
	if err := checkPrivate(f, info); err != nil {
		return nil, fmt.Errorf("read private file %s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read private file: %w", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("read private file %s: %w", path, ErrTooLarge)
	}
	return data, nil
}

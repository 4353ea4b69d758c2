// Package bolt keeps the controller's state in one private file, with bbolt.
//
// Each value is stored behind a CRC-32C (Castagnoli, RFC 3720) of its bucket, its
// key and itself, big endian: bbolt has checksums for its first two pages only,
// and a flipped bit in a user's name is to be noticed, not obeyed.
package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postern-sdp/postern/controller/store"
)

// version is the format of what this program writes.
const version = 1

const (
	metaBucket  = "meta"
	versionKey  = "version"
	lockTimeout = time.Second
	lockRetry   = 50 * time.Millisecond
)

// ErrMode is returned for a state file that others may read.
var ErrMode = errors.New("the file is readable by others: it must be yours with mode 0600")

// Store is a [store.Store] in one file. A bbolt transaction must not be begun
// within another one, so neither must one of a Store.
type Store struct{ db *bbolt.DB }

var _ store.Store = (*Store)(nil)

// Open opens the state at path, or makes it. A file of a newer version, a damaged
// one, or one that others may read is refused and not touched.
func Open(path string) (*Store, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(path)
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%w (it is not a file)", store.ErrCorrupt)
	case info.Mode().Perm()&0o077 != 0:
		err = ErrMode
	default:
		err = inspect(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	db, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	return &Store{db}, nil
}

// create makes an empty state under another name first: a crash in the middle
// leaves no half of one at path. It never replaces a file.
func create(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	draft := filepath.Join(dir, "state")
	db, err := openFile(draft)
	if err != nil {
		return err
	}
	s := &Store{db}
	err = s.Update(func(tx store.Tx) error {
		return tx.Put(metaBucket, versionKey, []byte(strconv.Itoa(version)))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := os.Link(draft, path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// openFile opens the file without waiting for another process for longer than
// lockTimeout.
func openFile(path string) (db *bbolt.DB, err error) {
	var file *os.File
	options := &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	}
	damage := guard(func() { db, err = bbolt.Open(path, 0o600, options) })
	if damage != nil {
		return nil, errors.Join(damage, file.Close()) // which gives the lock back
	}
	return db, translate(err)
}

// inspect checks the whole file without writing, while no other process writes.
func inspect(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // gives the lock back too
	for start := time.Now(); ; time.Sleep(lockRetry) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil {
			return check(file)
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock: %w", err)
		}
		if time.Since(start) > lockTimeout {
			return store.ErrLocked
		}
	}
}

func translate(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return store.ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum),
		errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w (%w)", store.ErrCorrupt, err)
	}
	return err
}

// View implements [store.Store].
func (s *Store) View(f func(store.Tx) error) error {
	tx, err := s.begin(false)
	if err != nil {
		return err
	}
	defer tx.rollback()
	return f(tx)
}

// Update implements [store.Store]: it returns after fsync. After an error the old
// content stands, but for one of the last fsync itself, where nobody can know.
func (s *Store) Update(f func(store.Tx) error) error {
	tx, err := s.begin(true)
	if err != nil {
		return err
	}
	defer tx.rollback() // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	if tx.broken != nil { // f did not pass it on
		return tx.broken
	}
	if err := tx.guarded(tx.bolt.Commit); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func (s *Store) begin(writable bool) (*transaction, error) {
	t, err := s.db.Begin(writable)
	if err != nil {
		return nil, fmt.Errorf("use state: %w", err)
	}
	return &transaction{bolt: t}, nil
}

// Close implements [store.Store]. It waits for the transactions that run.
func (s *Store) Close() error { return s.db.Close() }

package protect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/bootclock"
)

const (
	recordName    = "protection.json"
	recordVersion = 1
	lockPause     = 10 * time.Millisecond
)

// Store keeps the record in the agent's state folder. Its methods may be called by
// any process at any time.
type Store struct {
	Folder string
	// NoWait is for one who must not stand still while another one works under the lock,
	// which may take half a minute: Change and Hold return [ErrBusy] instead.
	NoWait bool
	// Clock is this machine's unless set.
	Clock func() (Clock, error)

	lockWith func(fd, how int) error // flock(2) unless set
}

// Now reads the clock.
func (s Store) Now() (Clock, error) {
	if s.Clock != nil {
		return s.Clock()
	}
	boot, err := bootclock.ID()
	return Clock{Boot: boot, Now: bootclock.Now()}, err
}

// Read returns the record and the time it means something at. Without one the state
// is [Off]; beside an error it is [On].
func (s Store) Read() (Record, Clock, error) {
	clock, err := s.Now()
	if err != nil {
		return unreadable(), clock, err
	}
	r, err := s.load()
	return r, clock, err
}

func (s Store) load() (Record, error) {
	path := filepath.Join(s.Folder, recordName)
	text, err := atomicfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{Version: recordVersion, State: Off}, nil
	}
	if err != nil {
		return unreadable(), fmt.Errorf("read protection: %w", err)
	}
	r, err := parse(text)
	if err != nil {
		return unreadable(), fmt.Errorf("read protection %s: %w", path, err)
	}
	return r, nil
}

func parse(text []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil || r.Version < 1 {
		return Record{}, ErrRecord
	}
	if r.Version > recordVersion {
		return Record{}, ErrNewer
	}
	if r.State != Off && r.State != Trial && r.State != On {
		return Record{}, ErrRecord
	}
	for _, a := range r.Admins {
		if !a.Source.IsValid() || a.Source.Addr().Is4In6() {
			return Record{}, ErrRecord
		}
	}
	return r, nil
}

// Change lets change alter the record, and then, before anybody else may, has act
// bring the rules to it. When the record cannot be written, act is not called, and
// everything is as it was. One that cannot be read is replaced: who changes it
// decides anew.
func (s Store) Change(ctx context.Context, change func(*Record, Clock) error,
	act func(Record, Clock) error) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	clock, err := s.Now()
	if err != nil {
		return err
	}
	r, _ := s.load() // its error is told by whoever reads it before
	if err := change(&r, clock); err != nil {
		return err
	}
	r.Version, r.Since = recordVersion, time.Now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write protection: %w", err)
	}
	path := filepath.Join(s.Folder, recordName)
	if err := atomicfile.Write(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write protection: %w", err)
	}
	return act(r, clock)
}

// Hold calls act while nobody else changes the record or the rules.
func (s Store) Hold(ctx context.Context, act func(Record, Clock) error) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, clock, err := s.Read()
	if err != nil {
		return err
	}
	return act(r, clock)
}

// lock waits for the others until ctx ends, or not at all with NoWait. The kernel lets
// go of the locks of a killed process.
func (s Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(s.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	f, err := os.Open(s.Folder) // a folder can be locked, and needs no file that belongs to somebody
	if err != nil {
		return nil, fmt.Errorf("lock protection: %w", err)
	}
	for {
		err = s.tryLock(f)
		if !errors.Is(err, ErrBusy) || s.NoWait {
			break
		}
		if err = pause(ctx); err != nil {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock protection: %w", err)
	}
	return func() { f.Close() }, nil
}

func (s Store) tryLock(f *os.File) error {
	flock := unix.Flock
	if s.lockWith != nil {
		flock = s.lockWith
	}
	for {
		err := flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrBusy
		default:
			return err
		}
	}
}

// pause is short: a wait in the kernel would outlast ctx.
func pause(ctx context.Context) error {
	timer := time.NewTimer(lockPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

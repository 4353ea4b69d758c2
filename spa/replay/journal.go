package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-sdp/postern/spa"
)

// journal appends accepted datagrams to a file. A record is written, not synced,
// before the datagram is accepted: that survives the death of the process. Against
// the machine's own crash, the header names the boot; see Open. Its methods are
// called with the guard's lock held, but for replace.
type journal struct {
	path string
	boot string

	file  *os.File
	size  int64
	fault error // of the last append
	stuck bool  // the end of the file is unknown: nothing may be appended

	gathering bool // replace is under way
	gathered  []byte
}

// Open returns a guard that remembers across restarts in the file at path, which
// is made when it is missing. When the file was not closed in order and the
// machine has booted since, what the disk has may be incomplete: every epoch that a
// lost record could be of is closed, which is up to two minutes of refused knocks,
// reckoned from the present or from the journal's own last time, if that is later.
func Open(path string, now time.Time) (*Guard, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return open(path, boot, now)
}

func open(path, boot string, now time.Time) (*Guard, error) {
	g := NewMemory()
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read replay journal: %w", err)
	default:
		if err := g.load(old, boot, spa.EpochOf(now)); err != nil {
			return nil, fmt.Errorf("read replay journal %s: %w", path, err)
		}
	}
	g.journal = &journal{path: path, boot: boot}
	if err := g.journal.replace(g.snapshot(spa.EpochOf(now)), &g.mu); err != nil {
		return nil, errors.Join(err, g.journal.release())
	}
	return g, nil
}

func (g *Guard) load(b []byte, boot string, present int64) error {
	c, err := parseJournal(b)
	if err != nil {
		return err
	}
	if c.damaged && c.boot == boot { // no crash of the machine explains it
		return ErrCorrupt
	}
	g.floor = c.floor
	latest := max(present, c.written)
	for _, r := range c.records {
		g.remember(r)
		latest = max(latest, r.epoch)
	}
	if !c.complete && c.boot != boot {
		g.floor = max(g.floor, latest+closedAhead)
	}
	return nil
}

// bootID names the running boot of the machine (Linux), so that a crash of the
// machine can be told from one of the process.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the machine's boot id: %w", err)
	}
	b = bytes.TrimSpace(b)
	if len(b) != bootIDSize {
		return "", fmt.Errorf("the machine's boot id has %d characters, want %d",
			len(b), bootIDSize)
	}
	return string(b), nil
}

// append writes one record. A torn one is cut off again; when that fails too, the
// journal is stuck until it is replaced.
func (j *journal) append(r record) error {
	if j.stuck {
		return j.fault
	}
	b := appendRecord(make([]byte, 0, recordSize), r)
	if _, err := j.file.Write(b); err != nil {
		j.fault = fmt.Errorf("append to replay journal: %w", err)
		j.stuck = j.cut() != nil
		return j.fault
	}
	j.fault = nil
	j.size += recordSize
	if j.gathering {
		j.gathered = append(j.gathered, b...)
	}
	return nil
}

func (j *journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	_, err := j.file.Seek(j.size, io.SeekStart)
	return err
}

// gather keeps the records that are appended from now on, until replace has
// brought them to the new file.
func (j *journal) gather() { j.gathering, j.gathered = true, nil }

// replace syncs a new file with the snapshot and puts it in the old one's place. The
// lock is taken only to add what was appended meanwhile and to swap the two. On an
// error before the swap the old file goes on.
func (j *journal) replace(snapshot []byte, lock *sync.Mutex) error {
	next, err := writeSynced(j.path+".new", snapshot)
	lock.Lock()
	if err == nil {
		err = j.swap(next, int64(len(snapshot)))
	}
	j.gathering, j.gathered = false, nil
	lock.Unlock()
	if err != nil {
		return fmt.Errorf("write replay journal: %w", err)
	}
	if err := syncDir(filepath.Dir(j.path)); err != nil {
		return fmt.Errorf("write replay journal: %w", err)
	}
	return nil
}

func (j *journal) swap(next *os.File, size int64) error {
	_, err := next.Write(j.gathered)
	if err == nil {
		err = os.Rename(next.Name(), j.path)
	}
	if err != nil {
		return errors.Join(err, discard(next))
	}
	if j.file != nil {
		_ = j.file.Close() // replaced: nothing in it is needed any more
	}
	j.file, j.size = next, size+int64(len(j.gathered))
	j.fault, j.stuck = nil, false
	return nil
}

func writeSynced(path string, b []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, discard(f))
	}
	return f, nil
}

// discard gives a half-written file's room back.
func discard(f *os.File) error { return errors.Join(f.Close(), os.Remove(f.Name())) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (j *journal) close() error {
	err := j.append(endRecord())
	if err == nil {
		err = j.file.Sync()
	}
	return errors.Join(err, j.file.Close())
}

// release closes the file of a journal that could not be opened wholly.
func (j *journal) release() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/postern-sdp/postern/spa"
)

// damaged is put behind the name of a journal that is set aside. There is one such
// file at most: the newest.
const damaged = ".damaged"

// Salvage is Open for one who must go on without an administrator. A journal that
// is damaged or of another version is set aside, which damage tells, and what it may
// have held is closed instead: every epoch up to the latest that could have been
// accepted, reckoned from the present and from whatever can still be read. Nothing is
// ever taken twice for it; valid datagrams are refused for up to two minutes.
func Salvage(path string, now time.Time) (g *Guard, damage, err error) {
	boot, err := bootID()
	if err != nil {
		return nil, nil, err
	}
	return salvage(path, boot, now)
}

func salvage(path, boot string, now time.Time) (g *Guard, damage, err error) {
	g, err = open(path, boot, now)
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
		return g, nil, err
	}
	damage = fmt.Errorf("set aside as %s: %w", path+damaged, err)
	old, err := os.ReadFile(path)
	if err == nil {
		err = setAside(path)
	}
	if err != nil {
		return nil, nil, errors.Join(damage, err)
	}
	present := spa.EpochOf(now)
	g = NewMemory()
	g.floor = min(latest(old, present), allEpochs-closedAhead) + closedAhead
	g.journal = &journal{path: path, boot: boot}
	// The new one takes the damaged one's place in one step: at no moment is there none,
	// which would read as "nothing was ever accepted".
	if err := g.journal.replace(g.snapshot(present), &g.mu); err != nil {
		return nil, nil, errors.Join(err, g.journal.release())
	}
	return g, damage, nil
}

// setAside gives the file a second name.
func setAside(path string) error {
	if err := os.Remove(path + damaged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set replay journal aside: %w", err)
	}
	if err := os.Link(path, path+damaged); err != nil {
		return fmt.Errorf("set replay journal aside: %w", err)
	}
	return nil
}

// latest returns the last epoch that a damaged journal shows traces of, the present
// one at least. Whether a record is one, its checksum tells.
func latest(b []byte, present int64) int64 {
	if h, _, err := parseHeader(b); err == nil {
		present = max(present, h.written, h.floor-closedAhead)
	}
	for at := headerSize; at+recordSize <= len(b); at += recordSize {
		if r, ok := parseRecord(b[at : at+recordSize]); ok {
			present = max(present, r.epoch)
		}
	}
	return present
}

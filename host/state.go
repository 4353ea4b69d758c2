package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/logkeys"
)

const (
	stateVersion = 1
	// settle is how long the writer waits for more changes before it writes one file.
	settle = 20 * time.Millisecond
)

// stateFile is the sessions on disk: what an agent that is started again goes on
// with. It holds their host-knock secrets, so only its owner may read it.
// Deadlines are on the boot clock and mean nothing in another boot of the machine,
// whose kernel has no pinholes either.
type stateFile struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`
	// AtBoot is the controller's time when the machine booted.
	AtBoot   time.Time `json:"controller_time_at_boot"`
	Sessions []record  `json:"sessions"`
}

// loadState reads what an agent left in this boot, which is nothing when the file
// is missing or of an earlier boot. It never changes the file.
func loadState(path, boot string) (stateFile, error) {
	b, err := atomicfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return stateFile{}, nil
	}
	if err != nil {
		return stateFile{}, fmt.Errorf("read state: %w", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil || head.Version < 1 {
		return stateFile{}, fmt.Errorf("read state %s: %w", path, ErrState)
	}
	if head.Version > stateVersion {
		return stateFile{}, fmt.Errorf("read state %s: %w", path, ErrStateVersion)
	}
	var s stateFile
	if err := json.Unmarshal(b, &s); err != nil {
		return stateFile{}, fmt.Errorf("read state %s: %w", path, ErrState)
	}
	if s.Boot != boot {
		return stateFile{}, nil
	}
	return s, nil
}

// writer keeps the state file up to date, off the path of knocks and orders.
type writer struct {
	path    string
	boot    string
	content func() (atBoot time.Time, sessions []record)
	log     *slog.Logger
	dirty   chan struct{} // one token: something changed since the last write

	mu sync.Mutex // one write at a time, each of the newest records
}

// changed asks for a write soon. It never blocks.
func (w *writer) changed() {
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// run writes after changes until ctx ends, and once more then.
func (w *writer) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return w.flush()
		case <-w.dirty:
		}
		pause := time.NewTimer(settle)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
		if err := w.flush(); err != nil {
			w.log.Error("state not written", logkeys.File, w.path, logkeys.Error, err)
		}
	}
}

// flush writes the newest records now. A file that cannot be written is removed:
// an old one could bring an ended session back; without one the controller's Sync
// brings those that are valid.
func (w *writer) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := stateFile{Version: stateVersion, Boot: w.boot}
	s.AtBoot, s.Sessions = w.content()
	b, err := json.Marshal(s)
	if err == nil {
		err = atomicfile.Write(w.path, b, 0o600)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write state: %w", err)
	if gone := os.Remove(w.path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		return errors.Join(err, gone)
	}
	w.log.Error("state not written, the file is removed", logkeys.File, w.path, logkeys.Error, err)
	return nil
}

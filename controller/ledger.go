package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	batchDelay   = 20 * time.Millisecond // collected before a write that nobody waits for
	retryDelay   = time.Second           // after a write that failed
	maxUnwritten = 20_000                // changes; above, no new session is taken
)

// ledger writes the sessions' records behind, in batches: nothing on a knock's
// path waits for the disk. sync waits, for ends that are to be acknowledged.
type ledger struct {
	write func(batch map[key.ID][]byte) error // one transaction; a nil value deletes
	log   *slog.Logger
	wake  chan struct{} // has one place

	mu      sync.Mutex // guards what follows
	pending map[key.ID][]byte
	waiters []chan error
	writing bool // a batch taken out of pending is not on disk yet
}

func newLedger(write func(map[key.ID][]byte) error, log *slog.Logger) *ledger {
	return &ledger{write: write, log: log, wake: make(chan struct{}, 1), pending: make(map[key.ID][]byte)}
}

// put records r, later.
func (l *ledger) put(r record) {
	value, err := json.Marshal(r)
	if err != nil { // a record holds nothing that JSON cannot say
		panic("controller: encode session record: " + err.Error())
	}
	l.set(r.ID, value)
}

// drop deletes the record, later.
func (l *ledger) drop(id key.ID) { l.set(id, nil) }

func (l *ledger) set(id key.ID, value []byte) {
	l.mu.Lock()
	l.pending[id] = value
	l.mu.Unlock()
	l.poke()
}

func (l *ledger) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// behind reports whether so much waits to be written that no more is to be begun.
func (l *ledger) behind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) >= maxUnwritten
}

// sync returns when everything put before is on disk, or with the error of
// trying. What could not be written is kept and tried again.
func (l *ledger) sync(ctx context.Context) error {
	done := make(chan error, 1)
	l.mu.Lock()
	if len(l.pending) == 0 && !l.writing {
		l.mu.Unlock()
		return nil
	}
	l.waiters = append(l.waiters, done)
	l.mu.Unlock()
	l.poke()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run writes until ctx ends, and then what is left.
func (l *ledger) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return l.flush()
		case <-l.wake:
		}
		if !l.awaited() {
			pause(ctx, batchDelay)
		}
		if err := l.flush(); err != nil {
			l.log.Error("sessions could not be written, trying again", logkeys.Error, err)
			pause(ctx, retryDelay)
			l.poke()
		}
	}
}

func (l *ledger) awaited() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiters) > 0
}

// flush writes what is pending in one transaction and answers the waiters.
func (l *ledger) flush() error {
	l.mu.Lock()
	batch, waiters := l.pending, l.waiters
	l.pending, l.waiters = make(map[key.ID][]byte), nil
	l.writing = true
	l.mu.Unlock()
	var err error
	if len(batch) > 0 {
		if err = l.write(batch); err != nil {
			err = fmt.Errorf("write sessions: %w", err)
		}
	}
	l.written(batch, err)
	for _, w := range waiters {
		w <- err
	}
	return err
}

// written puts a batch back that was not written, but for what is newer.
func (l *ledger) written(batch map[key.ID][]byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing = false
	if err == nil {
		return
	}
	for id, value := range batch {
		if _, newer := l.pending[id]; !newer {
			l.pending[id] = value
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

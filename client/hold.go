package client

import (
	"errors"
	"sync"
	"time"
)

const (
	firstHold   = time.Second
	longestHold = 30 * time.Second
)

// hold keeps the answer to a knock that came to nothing, for programs that ask again
// and again: a syslog sender would knock once for each line. Whoever asks after a
// second is not held back; where somebody was, a denial is kept for twice as long the
// next time.
type hold struct {
	mu     sync.Mutex // guards what follows
	err    error
	until  time.Time
	length time.Duration
	met    bool // somebody was held back
}

// heldError is an answer that was given before.
type heldError struct{ error }

// Unwrap returns the answer.
func (h heldError) Unwrap() error { return h.error }

// isHeld reports whether err was told before.
func isHeld(err error) bool {
	_, held := errors.AsType[heldError](err)
	return held
}

// check returns the answer to give without asking anybody, if there is one.
func (h *hold) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil || !time.Now().Before(h.until) {
		return nil
	}
	h.met = true
	return heldError{h.err}
}

// note takes the outcome of asking. An error of the network's own, or silence, takes
// its time by itself.
func (h *hold) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, denied := errors.AsType[*DeniedError](err)
	if h.met && denied {
		h.length = min(2*h.length, longestHold)
	} else {
		h.length = firstHold
	}
	h.err, h.until, h.met = err, time.Now().Add(h.length), false
}

// over reports whether nothing is left to tell apart.
func (h *hold) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err == nil || time.Since(h.until) > longestHold
}

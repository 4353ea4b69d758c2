package tunnel

import (
	"testing"
	"time"
)

// A machine that wakes may be in another network: what QUIC sends there first is in vain
// unless a knock goes ahead of it.
func TestWhoWakesKnocksAheadOfQUIC(t *testing.T) {
	h := newQuietHost(t)
	h.peer.heard.Store(h.gate.now())
	w := h.gate.watch
	h.send(t, "before")
	w.due.Store(h.gate.now() - int64(oversleep) - 1) // the look at the path is late by so much
	h.send(t, "awake")
	h.send(t, "and on")
	h.wants(t, "before", "knock", "awake", "and on")
	if w.awake.Load() == 0 {
		t.Error("what came meanwhile is not handed on in shares")
	}
	w.due.Store(h.gate.now() - int64(oversleep)/2) // late, on a busy machine
	h.send(t, "late")
	h.wants(t, "late")
}

// QUIC drops what comes faster than it works.
func TestWhatCameWhileAsleepIsHandedOnInShares(t *testing.T) {
	h := newQuietHost(t)
	pass := func() time.Duration {
		begin := time.Now()
		for range 10 * share {
			h.gate.catchUp(1)
		}
		return time.Since(begin)
	}
	w := h.gate.watch
	w.awake.Store(h.gate.now())
	if took := pass(); took < 9*time.Millisecond {
		t.Errorf("ten shares in %v, want a millisecond between two", took)
	}
	w.awake.Store(h.gate.now() - int64(catchingUp) - 1)
	pass()
	if w.awake.Load() != 0 {
		t.Error("it goes on for ever")
	}
}

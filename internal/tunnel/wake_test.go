package tunnel

import (
	"testing"
	"time"

	"github.com/quic-go/quic-go"
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
	w := h.gate.watch
	w.conn.Store(idle(t))
	pass := func() time.Duration {
		begin := time.Now()
		for range 3 * share {
			h.gate.catchUp(1)
		}
		return time.Since(begin)
	}
	w.awake.Store(h.gate.now())
	if took := pass(); took < patient*time.Millisecond {
		t.Errorf("three shares in %v, and QUIC has not worked", took)
	}
	w.awake.Store(h.gate.now() - int64(catchingUp) - 1)
	pass()
	if w.awake.Load() != 0 {
		t.Error("it goes on for ever")
	}
}

// idle is a QUIC connection that hears nothing.
func idle(t *testing.T) *quic.Conn {
	t.Helper()
	h := newHouse(t, loopback4)
	return dial(t, h.config(h.grant())).quic
}

// An acknowledgement that waited for seconds makes QUIC take the path for a slow one.
func TestAcknowledgementsThatWaitedComeBehindAnAnswer(t *testing.T) {
	h := newQuietHost(t)
	w := h.gate.watch
	w.conn.Store(idle(t))
	w.rtt.Store(int64(mostStale) * 2)
	client := h.gate.Addr()
	say := func(text string) {
		if _, err := h.conn.WriteToUDPAddrPort([]byte(text), client); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(want string) {
		t.Helper()
		b := make([]byte, 2048)
		_ = h.gate.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := h.gate.ReadFrom(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("got %q, %v, want %q", b[:n], err, want)
		}
	}
	data := string(make([]byte, 1200))
	say("ack 1")
	say(data)
	say("ack 2")
	say(data)
	w.awake.Store(h.gate.now() + int64(time.Hour)) // the machine may be slow
	hears(data)
	hears(data)
	w.awake.Store(h.gate.now() - int64(mostStale) - 1)
	say("answer")
	hears("answer")
	h.gate.reader.backlog.latest = -1 // QUIC has measured the path anew
	hears("ack 1")
	hears("ack 2")
	say("and on")
	hears("and on")
}

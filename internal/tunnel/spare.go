package tunnel

import "time"

const (
	// spareSize bounds what is held back: an acknowledgement alone is smaller, and little
	// else is.
	spareSize = 40
	// dense is how near one another datagrams must come for an acknowledgement to be
	// held back until the next one.
	dense = 5 * time.Millisecond
	// farAway is the round trip from which on a dense stream is none of questions and
	// answers, of which one would wait for the other: those pause for a round trip.
	farAway = 2 * dense
)

// spare is the newest acknowledgement of a dense stream, held back until the next one
// is there, a millisecond or so. Its time comes when the path breaks: QUIC follows a
// client to a new address for a datagram that it has not seen yet, and no client
// without room in its congestion window has another one to send behind its knock
// before QUIC's time-out. All others have come to the host by the old path.
type spare struct {
	b, oob []byte
	to     *peer // nil: none is held
	at     int64 // since when, on the Gate's clock
}

// exchange holds a datagram back, in the place of the one that was, and reports
// whether it did.
func (w *watch) exchange(g *Gate, p *peer, b, oob []byte) bool {
	if len(b) > spareSize {
		return false
	}
	now := g.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.releaseLocked(g)
	if now-p.heard.Load() > int64(dense) || w.gap.Load() > int64(dense) ||
		now-w.since.Load() < int64(steady) || w.rtt.Load() < int64(farAway) {
		return false
	}
	s := &w.spare
	s.b, s.oob, s.to, s.at = append(s.b[:0], b...), append(s.oob[:0], oob...), p, now
	return true
}

// useSpare sends what is held back, behind a knock, and puts it among the last datagrams:
// those are sent once more.
func (w *watch) useSpare(g *Gate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := &w.spare; s.to != nil {
		w.rememberLocked(s.b, g.now())
		w.releaseLocked(g)
	}
}

// release sends what has been held back for at least so long.
func (w *watch) release(g *Gate, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spare.to != nil && g.now()-w.spare.at >= int64(age) {
		w.releaseLocked(g)
	}
}

func (w *watch) releaseLocked(g *Gate) {
	if s := &w.spare; s.to != nil {
		g.resend(datagram{s.b, s.oob}, s.to.addr)
		s.to = nil
	}
}

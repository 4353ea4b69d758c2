package spa

import (
	"sync/atomic"
	"time"
)

// How often the knocks of one identity, or the host knocks of one session, are taken.
// PROTOCOL 6.8
const (
	// PaceBurst is how many are taken at once.
	PaceBurst = 256
	// PaceEvery is how long it takes until one more is.
	PaceEvery = time.Second / 32
)

// pace keeps one identity from taking up a receiver: a knock with a right HMAC costs
// public-key work and room in the replay guard, which all identities share. It is a
// generic cell rate algorithm (ITU-T I.371) on the receiver's clock. The zero pace has
// its whole allowance. It is safe for concurrent use.
type pace struct {
	full atomic.Int64 // when the allowance is whole again, in Unix nanoseconds
}

// take reports whether one more datagram is taken at now.
func (p *pace) take(now time.Time) bool {
	at := now.UnixNano()
	latest := at + int64(PaceBurst*PaceEvery)
	for {
		old := p.full.Load()
		full := old
		if full < at || full > latest { // idle until now; or the clock was set back
			full = at
		}
		full += int64(PaceEvery)
		if full > latest {
			return false
		}
		if p.full.CompareAndSwap(old, full) {
			return true
		}
	}
}

package host

import (
	"math/rand/v2"
	"time"
)

const (
	firstPause = 200 * time.Millisecond
	maxPause   = 30 * time.Second
	// settled is how long a link must have lasted for the next pause to be short
	// again: a controller that takes the agent and drops it at once is left in peace.
	settled = 10 * time.Second
)

// backoff spaces attempts: exponential with full jitter, so that the agents of a
// controller that was restarted do not all come back at the same moments.
type backoff struct {
	limit  time.Duration
	random func(n int64) int64 // in [0, n)
}

func newBackoff() *backoff { return &backoff{limit: firstPause, random: rand.Int64N} }

// pause returns how long to wait after a link that lasted that long.
func (b *backoff) pause(lasted time.Duration) time.Duration {
	if lasted >= settled {
		b.limit = firstPause
	}
	d := time.Duration(b.random(int64(b.limit)) + 1)
	b.limit = min(2*b.limit, maxPause)
	return d
}

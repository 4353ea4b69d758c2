package host

import (
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
)

// clock counts from the machine's boot. Deadlines are kept on it, so that nobody
// who sets the wall clock shortens or extends a session.
type clock func() time.Duration

// bootClock is the machine's. Go's own monotonic clock stands still while the
// machine is suspended, and a session would outlive its deadline by that time.
// (The kernel's set timeouts stand still as well; the owner, which looks at least
// once a second, takes those pinholes away after waking up.)
func bootClock() time.Duration { return bootclock.Now() }

// wallClock is the time that host knocks are judged by: the controller's, as its
// last Sync or a later Ping told it, carried on by the boot clock. Clients seal their
// host knocks on that clock too, so that neither end's own wall clock matters. Until
// the first Sync it is this machine's, corrected by what was last seen of the other.
type wallClock struct {
	boot   clock
	offset func() time.Duration // controller's clock minus ours, as last seen

	mu     sync.Mutex // guards origin
	origin time.Time  // the controller's time at boot, or zero
}

func (w *wallClock) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.origin.IsZero() {
		return time.Now().Add(w.offset())
	}
	return w.origin.Add(w.boot())
}

// set takes the controller's time.
func (w *wallClock) set(now time.Time) {
	w.restore(now.Round(0).Add(-w.boot()))
}

// restore takes what atBoot returned earlier in this boot.
func (w *wallClock) restore(origin time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.origin = origin
}

// atBoot returns the controller's time when this machine booted, zero before the
// first Sync.
func (w *wallClock) atBoot() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.origin
}

package tunnel

import (
	"log/slog"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/logkeys"
)

// refusalLog is how often the log has a line about a connection's refused streams: a
// client can ask for thousands a second.
const refusalLog = time.Second

// refusals writes of streams that were refused. It is safe for concurrent use.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	told   time.Time
	hidden int // since then
}

// tell writes of one, or counts it for the next line.
func (r *refusals) tell(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.told.IsZero() && now.Sub(r.told) < refusalLog {
		r.hidden++
		return
	}
	r.flushLocked()
	r.told = now
	r.log.Info("stream refused", logkeys.Error, err)
}

// flush writes how many there were that nothing was written of.
func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushLocked()
}

func (r *refusals) flushLocked() {
	if r.hidden > 0 {
		r.log.Info("more streams refused", logkeys.Count, r.hidden)
	}
	r.hidden = 0
}

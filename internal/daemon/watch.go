package daemon

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/postern-sdp/postern/internal/logkeys"
)

// statusEvery is how often the status line is told without a watchdog, and the
// longest with one.
const statusEvery = 10 * time.Second

// Watch tells the manager until ctx ends that the daemon is alive, as often as its
// watchdog wants it, and how it fares. alive asks the daemon's main loop, and
// must return an error, or not at all before its context ends, when that does no
// work any more: then nothing is told, and the manager's watchdog does what it is for.
func (m Manager) Watch(ctx context.Context, alive func(context.Context) error, status func() string) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.Log.Warn("the service manager's watchdog is not understood", logkeys.Error, err)
	}
	every := statusEvery
	if limit > 0 {
		every = min(every, limit/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		m.beat(ctx, every, limit > 0, alive, status)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m Manager) beat(ctx context.Context, limit time.Duration, watched bool,
	alive func(context.Context) error, status func() string) {
	asked, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := alive(asked); err != nil {
		if ctx.Err() == nil {
			m.Log.Error("the main loop does not answer", logkeys.Error, err)
		}
		return
	}
	told := []string{"STATUS=" + line(status())}
	if watched {
		told = append(told, "WATCHDOG=1")
	}
	m.tell(told...)
}

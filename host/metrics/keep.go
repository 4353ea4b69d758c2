package metrics

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/postern-sdp/postern/host"
)

// Pauses between two attempts at a port.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// Keep serves the metrics on address until ctx ends, whatever is in the way: a port
// that somebody has taken must never cost the agent itself. told gets each fault,
// and nil once the port is ours.
func Keep(ctx context.Context, address string, status func() (host.Status, error), told func(error)) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		l, err := net.Listen("tcp", address)
		if err == nil {
			told(nil)
			pause = firstPause
			err = Serve(ctx, l, status)
		} else {
			err = fmt.Errorf("metrics: %w", err)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			told(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

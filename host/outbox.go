package host

import (
	"context"
	"sync"

	"github.com/postern-sdp/postern/internal/control"
)

// maxOutbox is how many messages may wait for a controller that does not read. A
// stream that falls behind further is given up: its successor starts with a Sync.
const maxOutbox = 8192

// outbox queues what a stream is to send. Putting never blocks, so that neither
// the owner nor the reader of orders waits for the network.
type outbox struct {
	wake chan struct{} // one token: there is something to take

	mu       sync.Mutex // guards what follows
	messages []control.FromHost
	full     bool
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) put(m control.FromHost) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.messages) >= maxOutbox {
		o.full = true
	} else {
		o.messages = append(o.messages, m)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take waits for messages and returns all of them.
func (o *outbox) take(ctx context.Context) ([]control.FromHost, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-o.wake:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return nil, errSlow
	}
	taken := o.messages
	o.messages = nil
	return taken, nil
}

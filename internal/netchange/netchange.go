package netchange

import (
	"context"
	"sync"
	"time"
)

// settle is how long changes are gathered: one new network is many of them.
const settle = 30 * time.Millisecond

// Hub tells all that subscribe. It watches as long as somebody does. The zero value
// is ready, and all its methods may be called concurrently.
type Hub struct {
	mu      sync.Mutex // guards what follows
	next    int
	tell    map[int]func()
	stop    context.CancelFunc
	stopped chan struct{}
}

// Subscribe has f called after each change, one call at a time for all subscribers,
// until the returned function has been called. f must return soon, and may not
// subscribe or unsubscribe.
func (h *Hub) Subscribe(f func()) (unsubscribe func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tell == nil {
		h.tell = make(map[int]func())
	}
	h.next++
	n := h.next
	h.tell[n] = f
	if len(h.tell) == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		h.stop, h.stopped = cancel, make(chan struct{})
		go func(stopped chan struct{}) { // ends with the last subscriber
			defer close(stopped)
			h.run(ctx)
		}(h.stopped)
	}
	return sync.OnceFunc(func() { h.leave(n) })
}

func (h *Hub) leave(n int) {
	h.mu.Lock()
	delete(h.tell, n)
	last := len(h.tell) == 0
	stop, stopped := h.stop, h.stopped
	h.mu.Unlock()
	if last {
		stop()
		<-stopped
	}
}

// run calls the subscribers, once for all changes that come together.
func (h *Hub) run(ctx context.Context) {
	changes := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		})
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		select {
		case <-changes:
		default:
		}
		h.mu.Lock()
		for _, f := range h.tell {
			f()
		}
		h.mu.Unlock()
	}
}

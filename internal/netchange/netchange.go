package netchange

import (
	"context"
	"sync"
	"time"
)

// A new network is many changes, and on some machines routes change all day: those that
// follow one within settle are told together, and at least each settleMost.
const (
	settle     = 10 * time.Millisecond
	settleMost = time.Second
)

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

// run calls the subscribers as [gather] says.
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
	gather(ctx, changes, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, f := range h.tell {
			f()
		}
	})
}

// gather tells of a change at once, and of those that come soon after it together,
// less and less often as long as they do not end, until ctx ends.
func gather(ctx context.Context, changes <-chan struct{}, tell func()) {
	for wait := settle; ; {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		tell()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if len(changes) == 0 {
			wait = settle
		} else {
			wait = min(2*wait, settleMost)
		}
	}
}

package proxy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-sdp/postern/client"
)

const (
	listFresh = time.Minute      // how long a list is believed
	listPause = 5 * time.Second  // between two questions at least
	listWait  = 3 * time.Second  // for the answer to one
	listLimit = 20 * time.Second // of one, whoever waits
)

// directory is what the controller said about the services. It asks in the
// background, one question at a time, and what it once knew stays until the next
// answer.
type directory struct {
	fetch func(context.Context) ([]client.Service, error)
	life  context.Context
	group *sync.WaitGroup

	mu      sync.Mutex        // guards what follows
	ports   map[string]uint16 // by service, 0: not known; nil before the first answer
	at      time.Time         // of the last answer
	asked   time.Time         // the last question
	err     error             // of the last question
	pending chan struct{}     // closed with the answer; nil while there is no question
}

// lookup returns the port of a service, 0 when that is not known, and whether the
// service is on the list. With an error nothing is known.
func (d *directory) lookup(ctx context.Context, service string) (port uint16, listed bool, err error) {
	d.mu.Lock()
	port, listed = d.ports[service]
	waitFor := d.refreshLocked(listed)
	d.mu.Unlock()
	if listed || waitFor == nil {
		return d.answer(service)
	}
	patience := time.NewTimer(listWait)
	defer patience.Stop()
	select {
	case <-waitFor:
	case <-patience.C:
	case <-ctx.Done():
		return 0, false, context.Cause(ctx)
	}
	return d.answer(service)
}

// refreshLocked begins to ask if the list is old, or if something was not on it, and
// returns what to wait for, nil for nothing.
func (d *directory) refreshLocked(found bool) <-chan struct{} {
	age := time.Since(d.at)
	if d.pending != nil || d.fetch == nil || found && age < listFresh ||
		time.Since(d.asked) < listPause || d.life.Err() != nil {
		return d.pending
	}
	pending := make(chan struct{})
	d.pending, d.asked = pending, time.Now()
	d.group.Go(func() {
		ctx, cancel := context.WithTimeout(d.life, listLimit)
		defer cancel()
		all, err := d.fetch(ctx)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.pending, d.err = nil, err
		if err == nil {
			d.at, d.ports = time.Now(), make(map[string]uint16, len(all))
			for _, s := range all {
				d.ports[s.Name] = s.Port
			}
		}
		close(pending)
	})
	return pending
}

func (d *directory) answer(service string) (uint16, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ports == nil && d.fetch != nil {
		if d.err != nil {
			return 0, false, errors.Join(ErrNoList, d.err)
		}
		return 0, false, ErrNoList
	}
	port, listed := d.ports[service]
	return port, listed, nil
}

// names returns the services on the list, in order.
func (d *directory) names(ctx context.Context) []string {
	_, _, _ = d.lookup(ctx, "") // waits for the first list
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.ports))
}

package netchange

import (
	"context"
	"net"
	"slices"
	"time"
)

// pollEvery is how often a system is asked that does not tell by itself.
const pollEvery = 2 * time.Second

// poll compares the machine's addresses from time to time.
func poll(ctx context.Context, changed func()) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	before := addresses()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := addresses()
		if !slices.Equal(now, before) {
			before = now
			changed()
		}
	}
}

func addresses() []string {
	all, _ := net.InterfaceAddrs() // nil is a state, too
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	slices.Sort(texts)
	return texts
}

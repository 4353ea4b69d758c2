package fwtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// watched: what others take away is heard of at once, and what is nobody's business
// is not.
func watched(t *testing.T, n *network) {
	heard := n.watch(t)
	for range 3 {
		// Watch, which begins beside the test, may miss the first flush.
		testkit.Eventually(t, 5*soon, "a flush is heard of", func() bool {
			n.install(t, firewall.Rules{})
			n.flushRules(t)
			return heard.within(shortly)
		})
	}
	n.install(t, firewall.Rules{})
	heard.nothingMore()
	p := wide(firewall.TCP, n.client.v4, portA)
	for range 3 {
		n.install(t, firewall.Rules{OpenPorts: []firewall.Port{{Protocol: firewall.TCP, Number: portB}}})
		n.open(t, p)
		n.host.Run(t, "nft", "add table inet other; add chain inet other own; add rule inet other own accept")
		n.host.Run(t, "nft", "delete table inet other")
		n.revoke(t, p)
	}
	if heard.within(shortly) {
		t.Error("heard of what took nothing away")
	}
	n.flushRules(t)
	if !heard.within(soon) {
		t.Error("the last flush was not heard of")
	}
}

// hearing has a token when something was heard of.
type hearing chan struct{}

// watch has the firewall listen until the end of the test.
func (n *network) watch(t *testing.T) hearing {
	w, ok := n.fw.(firewall.Watcher)
	if !ok {
		t.Skip("this firewall hears of nothing")
	}
	heard := make(hearing, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := w.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
		if err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return heard
}

func (h hearing) within(limit time.Duration) bool {
	select {
	case <-h:
		return true
	case <-time.After(limit):
		return false
	}
}

// nothingMore waits until nothing is heard of any more.
func (h hearing) nothingMore() {
	for h.within(shortly) {
	}
}

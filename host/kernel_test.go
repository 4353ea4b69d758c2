package host

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/spa/key"
)

// memoryKernel is a firewall in memory with the semantics of firewall.Firewall on
// the test's clock. The tests of what the agent decides use it; those of what the
// kernel then does use the real backend.
type memoryKernel struct {
	now clock

	mu        sync.Mutex // guards what follows
	installed bool
	open      map[firewall.Pinhole]time.Duration
	changes   []firewall.Change
	rules     firewall.Rules // of the last Install
	installs  int
	fail      error // returned by Apply, which then does nothing
}

var _ firewall.Firewall = (*memoryKernel)(nil)

func newMemoryKernel(now clock) *memoryKernel {
	return &memoryKernel{now: now, installed: true, open: make(map[firewall.Pinhole]time.Duration)}
}

func (k *memoryKernel) Install(_ context.Context, rules firewall.Rules) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.installed = true
	k.rules = rules
	k.installs++
	return nil
}

func (k *memoryKernel) Apply(_ context.Context, c firewall.Change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.installed {
		return firewall.ErrNotInstalled
	}
	if k.fail != nil {
		return k.fail
	}
	k.changes = append(k.changes, c)
	for _, p := range c.Revoke {
		delete(k.open, p.Opening())
	}
	for _, p := range c.Open {
		if p.TTL > 0 {
			k.open[p.Opening()] = k.now() + p.TTL
		}
	}
	return nil
}

func (k *memoryKernel) List(context.Context) ([]firewall.Pinhole, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.installed {
		return nil, firewall.ErrNotInstalled
	}
	var all []firewall.Pinhole
	for p, until := range k.open {
		if until > k.now() {
			all = append(all, timed(p, until-k.now()))
		}
	}
	slices.SortFunc(all, func(a, b firewall.Pinhole) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.SourcePort, b.SourcePort))
	})
	return all, nil
}

func (k *memoryKernel) Dropped(context.Context) (firewall.Dropped, error) {
	return firewall.Dropped{}, nil
}

func (k *memoryKernel) Remove(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.installed = false
	clear(k.open)
	return nil
}

func (k *memoryKernel) Close() error { return nil }

// hold opens a pinhole that no session of the test has asked for.
func (k *memoryKernel) hold(t testing.TB, p firewall.Pinhole) {
	t.Helper()
	if err := k.Apply(t.Context(), firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
		t.Fatal(err)
	}
}

// failing makes Apply fail with err from now on; nil lets it work again.
func (k *memoryKernel) failing(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

func (k *memoryKernel) transactions() []firewall.Change {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.changes)
}

// memoryGate is the tunnel socket's list of admitted sources.
type memoryGate struct {
	mu       sync.Mutex
	admitted map[netip.AddrPort]key.ID
}

func (g *memoryGate) Admit(source netip.AddrPort, session key.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted[source] = session
}

func (g *memoryGate) Revoke(source netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.admitted, source)
}

func (g *memoryGate) Session(source netip.AddrPort) (key.ID, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, ok := g.admitted[source]
	return id, ok
}

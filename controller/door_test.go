package controller

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// paper is a firewall that only writes down what it is told, and refuses what a real one
// does.
type paper struct {
	firewall.Firewall
	installs atomic.Int32
	changes  int
	open     map[firewall.Pinhole]bool
}

func (p *paper) Install(context.Context, firewall.Rules) error {
	p.installs.Add(1)
	return nil
}

func (p *paper) List(context.Context) ([]firewall.Pinhole, error) { return nil, nil }

func (p *paper) Apply(_ context.Context, c firewall.Change) error {
	if err := c.Validate(); err != nil {
		return err
	}
	p.changes++
	for _, h := range c.Revoke {
		delete(p.open, h.Opening())
	}
	for _, h := range c.Open {
		p.open[h.Opening()] = true
	}
	return nil
}

func newPaperDoor(t *testing.T) (*door, *paper, key.ID) {
	t.Helper()
	p, self := &paper{open: make(map[firewall.Pinhole]bool)}, key.NewID()
	d := newDoor(self, p, replay.NewMemory(), new(counters), discard())
	d.open(noGate{}, 4041)
	if err := d.install(t.Context(), Defaults().Rules); err != nil {
		t.Fatal(err)
	}
	return d, p, self
}

// TestAFloodOfHostKnocksIsNoneOfChanges: whoever may come in and says so again and again
// costs a look-up each time, and not a change of the rules under the lock of all, nor more
// than its share of what is remembered.
func TestAFloodOfHostKnocksIsNoneOfChanges(t *testing.T) {
	d, p, self := newPaperDoor(t)
	source := netip.MustParseAddrPort("192.0.2.1:5000")
	pass, err := d.admit(t.Context(), key.NewID(), source.Addr(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const flood = 2 * maxHostKnocks
	start := time.Now()
	for i := range flood {
		at := start.Add(time.Duration(i) * time.Microsecond) // no two are the same
		d.hostKnock(spa.SealHostKnock(pass.knock, self, pass.session, at), source, netip.AddrPort{})
	}
	if got := d.counters.hostKnocks[spa.ReasonOK].Load(); got != maxHostKnocks {
		t.Errorf("%d host knocks were valid, want %d", got, maxHostKnocks)
	}
	if p.changes != 2 || !p.open[d.pinhole(source, 0)] || len(p.open) != 1 {
		t.Errorf("%d changes, open %v; want one for the knock and one for the first host knock", p.changes, p.open)
	}
}

// TestMoreSourcesThanAChangeTakesStayOpenAndShut: the kernel takes a bounded number of
// pinholes at once, and there may be more connections.
func TestMoreSourcesThanAChangeTakesStayOpenAndShut(t *testing.T) {
	d, p, _ := newPaperDoor(t)
	a := &admission{id: key.NewID(), identity: key.NewID(), until: time.Now(), sources: make(map[netip.AddrPort]func(error))}
	d.admissions[a.id] = a
	const many = firewall.MaxChange + 1
	for i := range many {
		source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 5000)
		a.sources[source], d.sources[source] = func(error) {}, a
	}
	d.refresh()
	if len(p.open) != many {
		t.Errorf("%d pinholes are kept open, want %d", len(p.open), many)
	}
	d.disconnect(a.identity, errRemoved)
	if len(p.open) != 0 {
		t.Errorf("%d pinholes stay open", len(p.open))
	}
}

// TestAnIdentityHasABoundedNumberOfConnections, however many sources it was let in from:
// each may cost the controller megabytes.
func TestAnIdentityHasABoundedNumberOfConnections(t *testing.T) {
	d, _, self := newPaperDoor(t)
	identity, address := key.NewID(), netip.MustParseAddr("192.0.2.1")
	var sources []netip.AddrPort
	for range maxPerCaller {
		pass, err := d.admit(t.Context(), identity, address, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for range maxSources {
			source := netip.AddrPortFrom(address, uint16(5000+len(sources)))
			d.hostKnock(spa.SealHostKnock(pass.knock, self, pass.session, time.Now()), source, netip.AddrPort{})
			sources = append(sources, source)
		}
	}
	var connected []func()
	for _, source := range sources {
		if _, gone, err := d.Connected(source, func(error) {}); err == nil {
			connected = append(connected, gone)
		}
	}
	if len(connected) != maxConnections {
		t.Fatalf("%d connections of one identity, want %d", len(connected), maxConnections)
	}
	connected[0]()
	if _, _, err := d.Connected(sources[len(sources)-1], func(error) {}); err != nil {
		t.Errorf("in the place of one that ended: %v", err)
	}
	if _, _, err := d.Connected(sources[len(sources)-2], func(error) {}); err == nil {
		t.Error("one too many")
	}
}

// hearing is a paper firewall that hears of what others do.
type hearing struct {
	*paper
	changed chan func() // once it listens
}

func (h hearing) Watch(ctx context.Context, changed func()) error {
	h.changed <- changed
	<-ctx.Done()
	return nil
}

// deaf is a paper firewall that hears of nothing, and fails when it is told to.
type deaf struct {
	*paper
	fail chan struct{}
}

func (d deaf) Watch(ctx context.Context, _ func()) error {
	select {
	case <-d.fail:
		return errors.New("no more room for news")
	case <-ctx.Done():
		return nil
	}
}

// TestRulesAreInstalledAnewWhenNewsOfThemWereMissed: what others did to them while nobody
// heard of it is undone.
func TestRulesAreInstalledAnewWhenNewsOfThemWereMissed(t *testing.T) {
	testkit.NoLeak(t)
	d, p, _ := newPaperDoor(t)
	h := deaf{p, make(chan struct{})}
	d.firewall = h
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.watch(ctx) }()
	h.fail <- struct{}{}
	testkit.Eventually(t, patience, "the rules to be installed again", func() bool { return p.installs.Load() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAFirewallThatHearsIsMendedAtOnce, with what was open, and once for each time that
// something happened.
func TestAFirewallThatHearsIsMendedAtOnce(t *testing.T) {
	testkit.NoLeak(t)
	d, p, _ := newPaperDoor(t)
	address := netip.MustParseAddr("192.0.2.1")
	if _, err := d.admit(t.Context(), key.NewID(), address, time.Now()); err != nil {
		t.Fatal(err)
	}
	h := hearing{p, make(chan func(), 1)}
	d.firewall = h
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.watch(ctx) }()
	changed := <-h.changed
	p.open = make(map[firewall.Pinhole]bool) // as a flush does
	changed()
	testkit.Eventually(t, patience, "the rules to be installed again", func() bool { return p.installs.Load() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := d.pinhole(netip.AddrPortFrom(address, 0), 0); len(p.open) != 1 || !p.open[want] {
		t.Errorf("open %v, want %v", p.open, want)
	}
	if n := p.installs.Load(); n != 2 {
		t.Errorf("installed %d times", n)
	}
}

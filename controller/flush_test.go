package controller

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// noGate lets nobody in: there is no socket.
type noGate struct{}

func (noGate) Admit(netip.AddrPort, key.ID) {}
func (noGate) Revoke(netip.AddrPort)        {}

// newBareDoor makes a door with the real firewall and nobody who looks after it.
func newBareDoor(t *testing.T, ns *testkit.Namespace) *door {
	t.Helper()
	fw, err := nft.New(nft.Config{Table: DefaultTable, NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fw.Close() })
	d := newDoor(key.NewID(), fw, replay.NewMemory(), new(counters), discard())
	d.open(noGate{}, 4041)
	c := Defaults()
	c.Keep = []config.Keep{{Source: "192.0.2.9", Ports: []string{"tcp/22"}, Until: "2099-01-01"}}
	if err := d.install(t.Context(), c.Rules); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAKnockFindsItsDoorAfterSomebodyFlushedTheRuleset: what is not there any more is
// put back by whoever needs it, with what was open in it.
func TestAKnockFindsItsDoorAfterSomebodyFlushedTheRuleset(t *testing.T) {
	ns := testkit.Netns(t)
	d := newBareDoor(t, ns)
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if _, err := d.admit(t.Context(), key.NewID(), first, time.Now()); err != nil {
		t.Fatal(err)
	}
	before := ns.Run(t, "nft", "list", "chain", "inet", DefaultTable, "input")
	ns.Run(t, "nft", "flush", "ruleset")
	if _, err := d.admit(t.Context(), key.NewID(), second, time.Now()); err != nil {
		t.Fatalf("a knock after the flush: %v", err)
	}
	wide := func(a netip.Addr) firewall.Pinhole {
		return firewall.Pinhole{Protocol: firewall.UDP, Source: a, Port: 4041}
	}
	wantOpen(t, d.firewall, wide(first), wide(second))
	if after := ns.Run(t, "nft", "list", "chain", "inet", DefaultTable, "input"); after != before {
		t.Errorf("the rules were\n%s\nand are\n%s", before, after)
	}
}

// TestFlushedRulesComeBackByThemselves, with the pinholes of those who are connected,
// when nobody knocks.
func TestFlushedRulesComeBackByThemselves(t *testing.T) {
	s := newStreet(t)
	g := s.admitted(s.from("10.9.0.2", 4040))
	tunnel := s.from("10.9.0.2", 4041)
	tunnel.send(hostKnock(g))
	var source netip.AddrPort
	testkit.Eventually(t, patience, "the host knock to let its source in", func() bool {
		s.door.mu.Lock()
		defer s.door.mu.Unlock()
		for source = range s.door.sources {
		}
		return source.IsValid()
	})
	if _, _, err := s.door.Connected(source, func(error) {}); err != nil {
		t.Fatal(err)
	}
	s.wantPinholes(hole(tunnel, true))
	s.gate.Run(t, "nft", "flush", "ruleset")
	testkit.Eventually(t, patience, "the rules to be back", func() bool {
		open, err := s.fw.List(context.Background())
		return err == nil && len(open) > 0
	})
	s.wantPinholes(hole(tunnel, true))
	stranger := s.from("10.9.0.3", 9999)
	stranger.send([]byte("is anyone there"))
	if got := stranger.receive(silence); got != nil {
		t.Errorf("the machine answers: %q", got)
	}
}

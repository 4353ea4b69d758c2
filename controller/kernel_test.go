package controller

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// street is a controller with the real firewall and capture, alone in a network
// namespace, and a client in another one at the other end of a cable:
//
//	client 10.9.0.2, 10.9.0.3 ────────── 10.9.0.1 controller
type street struct {
	*house
	gate, client *testkit.Namespace
}

func newStreet(t *testing.T) *street {
	gateNS, clientNS := testkit.Netns(t), testkit.Netns(t)
	testkit.Cable(t, gateNS, "eth0", []string{"10.9.0.1/24"}, clientNS, "eth0",
		[]string{"10.9.0.2/24", "10.9.0.3/24"})
	fw, err := nft.New(nft.Config{Table: DefaultTable, NetNS: gateNS.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fw.Close() })
	h := newHouse(t, func(h *house) {
		h.config.Knock.Listen, h.config.Control.Listen = "0.0.0.0:4040", "0.0.0.0:4041"
		h.config.Control.Capture = true
		h.config.Firewall.Backend = BackendNFTables
		h.fw = fw
		h.run = func(c *Controller, ctx context.Context) (err error) {
			gateNS.Do(t, func() { err = c.Run(ctx) })
			return err
		}
	})
	return &street{h, gateNS, clientNS}
}

// from makes a probe whose packets come from that address of the client's.
func (s *street) from(source string, port uint16) *probe {
	s.t.Helper()
	var c *net.UDPConn
	var err error
	s.client.Do(s.t, func() {
		local := &net.UDPAddr{IP: net.ParseIP(source)}
		c, err = net.DialUDP("udp4", local, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: int(port)})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return &probe{s.t, c}
}

func (s *street) wantPinholes(want ...firewall.Pinhole) {
	s.t.Helper()
	wantOpen(s.t, s.fw, want...)
}

func wantOpen(t *testing.T, fw firewall.Firewall, want ...firewall.Pinhole) {
	t.Helper()
	got, err := fw.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	less := func(a, b firewall.Pinhole) bool { return a.String() < b.String() }
	diff := cmp.Diff(got, want, cmpopts.IgnoreFields(firewall.Pinhole{}, "TTL"), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(less), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
	if diff != "" {
		t.Errorf("pinholes (-got +want):\n%s", diff)
	}
}

func hole(p *probe, exact bool) firewall.Pinhole {
	local := p.c.LocalAddr().(*net.UDPAddr).AddrPort()
	h := firewall.Pinhole{Protocol: firewall.UDP, Source: local.Addr().Unmap(), Port: 4041}
	if exact {
		h.SourcePort = local.Port()
	}
	return h
}

// admitted knocks with a join token, for the control port.
func (s *street) admitted(p *probe) *spa.Grant {
	s.t.Helper()
	token := s.token(control.RoleHost, "", "")
	datagram, pending, err := spa.SealKnock(token.Knock, s.private.Public(), s.name,
		spa.Request{Kind: spa.KindControl, Device: token.Token, Time: time.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
	p.send(datagram)
	reply, err := pending.OpenReply(p.receive(patience))
	if err != nil || reply.Grant == nil {
		s.t.Fatalf("knock: %v, %+v\n%s", err, reply.Denial, s.logs)
	}
	return reply.Grant
}

func hostKnock(g *spa.Grant) []byte { return spa.SealHostKnock(g.Knock, g.Host, g.Session, time.Now()) }

func TestTheControlPortOpensForOneSourceAndShuts(t *testing.T) {
	s := newStreet(t)
	for _, port := range []uint16{4041, 22, 9999} {
		p := s.from("10.9.0.2", port)
		p.send(quicInitial(0xfa))
		if got := p.receive(silence); got != nil {
			t.Errorf("port %d answers a stranger: %q", port, got)
		}
	}
	g := s.admitted(s.from("10.9.0.2", 4040))
	tunnel, neighbour := s.from("10.9.0.2", 4041), s.from("10.9.0.2", 4041)
	s.wantPinholes(hole(tunnel, false))
	if want := netip.MustParseAddrPort("10.9.0.1:4041"); g.Addresses[0] != want {
		t.Errorf("the grant leads to %v, want %s", g.Addresses, want)
	}
	tunnel.send(hostKnock(g))
	tunnel.send(quicInitial(0xfa))
	testkit.Eventually(t, patience, "the host knock to count", func() bool {
		return s.counters.hostKnocks[spa.ReasonOK].Load() == 1
	})
	s.wantPinholes(hole(tunnel, true))
	neighbour.send(quicInitial(0xfa))
	if got := neighbour.receive(silence); got != nil {
		t.Error("the neighbour behind the same address was answered")
	}
	s.door.sweep(time.Now().Add(2 * connectTTL)) // it never connected
	s.wantPinholes()
	tunnel.send(quicInitial(0xfa))
	if got := tunnel.receive(silence); got != nil {
		t.Error("a source that did not connect in time was answered")
	}
}

// TestAHostKnockFromAnUnexpectedAddressOpensThere: only capture can read it, for
// the firewall drops it.
func TestAHostKnockFromAnUnexpectedAddressOpensThere(t *testing.T) {
	s := newStreet(t)
	g := s.admitted(s.from("10.9.0.2", 4040))
	other := s.from("10.9.0.3", 4041)
	other.send(hostKnock(g))
	testkit.Eventually(t, patience, "the captured host knock to count", func() bool {
		return s.counters.hostKnocks[spa.ReasonOK].Load() == 1
	})
	s.wantPinholes(hole(other, true))
}

func TestWhatAnEarlierRunLeftOpenIsShut(t *testing.T) {
	s := newStreet(t)
	tunnel := s.from("10.9.0.2", 4041)
	s.admitted(s.from("10.9.0.2", 4040))
	s.wantPinholes(hole(tunnel, false))
	s.restart()
	s.wantPinholes()
	p := s.from("10.9.0.2", 9999)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	p.send([]byte("is anyone there"))
	if got := p.receive(silence); got != nil {
		t.Error("with the daemon gone the machine answers")
	}
}

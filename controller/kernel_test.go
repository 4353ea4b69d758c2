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

func newStreet(t *testing.T, change ...func(*house)) *street {
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
		for _, f := range change {
			f(h)
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

// TestContainersOnTheControllersMachineReachOut, and nobody reaches them.
func TestContainersOnTheControllersMachineReachOut(t *testing.T) {
	s := newStreet(t)
	container := testkit.Netns(t)
	testkit.Cable(t, s.gate, "docker0", []string{"172.17.0.1/16"}, container, "eth0", []string{"172.17.0.2/16"})
	s.gate.Sysctl(t, "ipv4/ip_forward", "1")
	container.Run(t, "ip", "route", "add", "default", "via", "172.17.0.1")
	s.client.Run(t, "ip", "route", "add", "172.17.0.0/16", "via", "10.9.0.1")
	listen := func(ns *testkit.Namespace, address string) {
		t.Helper()
		var l net.Listener
		var err error
		ns.Do(t, func() { l, err = net.Listen("tcp4", address) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	dial := func(ns *testkit.Namespace, address string, within time.Duration) (err error) {
		ns.Do(t, func() {
			var c net.Conn
			if c, err = net.DialTimeout("tcp4", address, within); err == nil {
				c.Close()
			}
		})
		return err
	}
	listen(s.client, "10.9.0.2:80")
	listen(container, "172.17.0.2:80")
	if err := dial(container, "10.9.0.2:80", patience); err != nil {
		t.Errorf("a container reaches nobody: %v", err)
	}
	if err := dial(s.client, "172.17.0.2:80", silence); err == nil {
		t.Error("a stranger was routed to a container")
	}
}

// TestBesideAHostsRulesNoneOfItsOwnAreNeeded: a host's keep rules let its two ports
// through, and whoever has not knocked meets silence there as everywhere else.
func TestBesideAHostsRulesNoneOfItsOwnAreNeeded(t *testing.T) {
	s := newStreet(t, func(h *house) { h.fw, h.config.Firewall.Backend = nil, BackendNone })
	hosts, err := nft.New(nft.Config{NetNS: s.gate.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer hosts.Close()
	rules := firewall.Rules{Keep: []firewall.Keep{{
		Source: netip.MustParsePrefix("0.0.0.0/0"),
		Ports:  []firewall.Port{{Protocol: firewall.UDP, Number: 4040}, {Protocol: firewall.UDP, Number: 4041}},
	}}}
	if err := hosts.Install(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{4040, 4041, 22} {
		p := s.from("10.9.0.2", port)
		p.send(quicInitial(0xfa))
		if got := p.receive(silence); got != nil {
			t.Errorf("port %d answers a stranger: %q", port, got)
		}
	}
	g := s.admitted(s.from("10.9.0.2", 4040))
	s.from("10.9.0.2", 4041).send(hostKnock(g))
	testkit.Eventually(t, patience, "the host knock to count", func() bool {
		return s.counters.hostKnocks[spa.ReasonOK].Load() == 1
	})
}

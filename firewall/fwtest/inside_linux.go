package fwtest

import (
	"net/netip"
	"testing"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func insideFlows(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, n.client, portA)
	// Begun before there is a firewall at all.
	flows := n.startInside(t, behind, 6000)
	n.install(t, insideRules())
	for _, f := range flows {
		f.wantAlive(t)
	}
	flows = append(flows, n.startInside(t, behind, 6001)...)
	for range 20 {
		n.install(t, insideRules())
	}
	for _, f := range flows {
		f.wantAlive(t)
	}
	for _, to := range n.client.addresses() {
		for _, p := range protocols() {
			wantReached(t, behind, 0, p, netip.AddrPortFrom(to, portA))
			closed := netip.AddrPortFrom(to, portClosed)
			if got := try(t, behind, 0, p, closed, soon); got != refused {
				t.Errorf("%s from behind to the closed %v: %s, want it refused", p, closed, got)
			}
		}
		if !ping(t, behind, to, soon) {
			t.Errorf("no answer to a ping of %v from behind", to)
		}
	}
	// Where no flow may begin, none goes on either.
	n.install(t, firewall.Rules{Inside: []string{"br-other"}})
	for _, f := range flows {
		f.wantCut(t)
	}
	for _, to := range n.client.addresses() {
		for _, p := range protocols() {
			wantSilence(t, behind, 0, p, netip.AddrPortFrom(to, portA))
		}
	}
}

// startInside starts flows of both protocols and families that the machine
// behind begins, to a port of the client.
func (n *network) startInside(t *testing.T, behind station, port uint16) []*flow {
	var flows []*flow
	for _, to := range n.client.addresses() {
		for _, p := range protocols() {
			at := netip.AddrPortFrom(to, port)
			flows = append(flows, startFlow(t, p, way{from: behind, server: n.client, at: at, local: at}))
		}
	}
	return flows
}

// insidePathMTU makes the host's link narrow on either side, which only its ICMP
// messages tell about.
func insidePathMTU(t *testing.T, n *network) {
	behind := n.addBehind(t)
	n.install(t, insideRules())
	for i, narrow := range []string{testkit.Interface, inside} {
		n.host.MTU(t, narrow, 1300)
		for _, to := range n.client.addresses() {
			at := netip.AddrPortFrom(to, uint16(portA+i))
			upload(t, behind, n.client, at)
			download(t, behind, n.client, netip.AddrPortFrom(to, uint16(portB+i)))
		}
		n.host.MTU(t, narrow, 1500)
	}
}

// nearSide is the host as the machine behind it sees it.
func nearSide(host station) station {
	return station{host.Namespace, netip.MustParseAddr("10.77.0.1"),
		netip.MustParseAddr("2001:db8:77::1")}
}

func insideStrangers(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, n.host, portA, portB)
	serveEcho(t, behind, portA)
	n.install(t, insideRules())
	near := nearSide(n.host)
	for _, to := range append(n.host.addresses(), near.addresses()...) {
		for _, p := range protocols() {
			wantSilence(t, behind, 0, p, netip.AddrPortFrom(to, portA))
			wantSilence(t, behind, 0, p, netip.AddrPortFrom(to, portClosed))
		}
		if ping(t, behind, to, shortly) {
			t.Errorf("the host answers a ping from behind to %v", to)
		}
	}
	for _, to := range behind.addresses() {
		for _, p := range protocols() {
			wantReached(t, near, 0, p, netip.AddrPortFrom(to, portA))
		}
	}
}

func keepInterface(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, n.host, portA, portB)
	near := nearSide(n.host)
	for _, to := range n.host.addresses() {
		a, b := netip.AddrPortFrom(to, portA), netip.AddrPortFrom(to, portB)
		nearA, nearB := netip.AddrPortFrom(near.in(to), portA), netip.AddrPortFrom(near.in(to), portB)
		for _, p := range protocols() {
			ports := []firewall.Port{{Protocol: p, Number: portA}}
			for _, name := range []string{inside, insides} {
				n.install(t, firewall.Rules{Keep: []firewall.Keep{{Interface: name, Ports: ports}}})
				wantReached(t, behind, 0, p, nearA)
				wantSilence(t, behind, 0, p, nearB)
				wantSilence(t, behind, 0, other(p), nearA)
				wantSilence(t, n.client, 0, p, a)
			}
			// The whole name, not its beginning.
			n.install(t, firewall.Rules{Keep: []firewall.Keep{{Interface: inside[:len(inside)-1]}}})
			wantSilence(t, behind, 0, p, nearA)
			// Both the source and the interface must be right.
			client := netip.PrefixFrom(n.client.in(to), to.BitLen())
			n.install(t, firewall.Rules{Keep: []firewall.Keep{
				{Source: client, Interface: testkit.Interface, Ports: ports},
				{Source: netip.PrefixFrom(n.neighbour.in(to), to.BitLen()), Interface: insides},
			}})
			wantReached(t, n.client, 0, p, a)
			wantSilence(t, n.client, 0, p, b)
			wantSilence(t, n.neighbour, 0, p, a)
			wantSilence(t, behind, 0, p, nearA)
		}
		n.install(t, firewall.Rules{Keep: []firewall.Keep{{Interface: insides}}})
		if !ping(t, behind, near.in(to), soon) {
			t.Errorf("no answer to a ping of %v by a kept interface", to)
		}
	}
}

package fwtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// inside is the host's interface to the machine behind it, insides a name with
// a "*" for it.
const (
	inside  = "br-lab0"
	insides = "br-*"
)

// Ports that the host publishes for the machine behind it, and where they go.
const (
	portPublished = 8080
	portBeside    = 8081
	portBehind    = 80
	portBehind2   = 81
)

// publish is what a container runtime does to the host: two published ports, and
// masquerading of what the machine behind begins.
const publish = `
table inet published {
	chain to {
		type nat hook prerouting priority dstnat;
		meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.77.0.2:80
		meta nfproto ipv4 fib daddr type local udp dport 8080 dnat ip to 10.77.0.2:80
		meta nfproto ipv4 fib daddr type local tcp dport 8081 dnat ip to 10.77.0.2:81
		meta nfproto ipv4 fib daddr type local udp dport 8081 dnat ip to 10.77.0.2:81
		meta nfproto ipv6 fib daddr type local tcp dport 8080 dnat ip6 to [2001:db8:77::2]:80
		meta nfproto ipv6 fib daddr type local udp dport 8080 dnat ip6 to [2001:db8:77::2]:80
		meta nfproto ipv6 fib daddr type local tcp dport 8081 dnat ip6 to [2001:db8:77::2]:81
		meta nfproto ipv6 fib daddr type local udp dport 8081 dnat ip6 to [2001:db8:77::2]:81
	}
	chain from {
		type nat hook postrouting priority srcnat;
		oifname "eth0" ip saddr 10.77.0.0/24 masquerade
		oifname "eth0" ip6 saddr 2001:db8:77::/64 masquerade
	}
}
`

// addBehind puts a machine behind the host, as a container is:
//
//	host br-lab0 10.77.0.1 2001:db8:77::1 ── 10.77.0.2 2001:db8:77::2 behind
func (n *network) addBehind(t *testing.T) station {
	t.Helper()
	s := station{testkit.Netns(t), netip.MustParseAddr("10.77.0.2"),
		netip.MustParseAddr("2001:db8:77::2")}
	testkit.Cable(t, n.host.Namespace, inside, []string{"10.77.0.1/24", "2001:db8:77::1/64"},
		s.Namespace, testkit.Interface, []string{"10.77.0.2/24", "2001:db8:77::2/64"})
	s.Route(t, "default4", "10.77.0.1")
	s.Route(t, "default6", "2001:db8:77::1")
	n.host.Sysctl(t, "ipv4/ip_forward", "1")
	n.host.Sysctl(t, "ipv6/conf/all/forwarding", "1")
	file := filepath.Join(t.TempDir(), "publish.nft")
	if err := os.WriteFile(file, []byte(publish), 0o600); err != nil {
		t.Fatal(err)
	}
	n.host.Run(t, "nft", "-f", file)
	return s
}

// insideRules let flows begin behind the host.
func insideRules() firewall.Rules { return firewall.Rules{Inside: []string{insides}} }

func publishedPorts(t *testing.T, n *network) {
	behind := n.addBehind(t)
	servers := serveEcho(t, behind, portBehind, portBehind2)
	for _, to := range n.host.addresses() { // what the firewall is to end
		wantReached(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(to, portPublished))
	}
	n.install(t, insideRules())
	for _, to := range n.host.addresses() {
		at, beside := netip.AddrPortFrom(to, portPublished), netip.AddrPortFrom(to, portBeside)
		for _, p := range protocols() {
			wantSilence(t, n.client, 0, p, at)
			pinhole := wide(p, n.client.in(to), portPublished)
			n.open(t, pinhole)
			wantReached(t, n.client, 0, p, at)
			wantSilence(t, n.client, 0, p, beside)
			wantSilence(t, n.client, 0, other(p), at)
			wantSilence(t, n.neighbour, 0, p, at)
			n.revoke(t, pinhole)
			wantSilence(t, n.client, 0, p, at)
			// One for the port that the machine behind listens on is another one.
			pinhole = wide(p, n.client.in(to), portBehind)
			n.open(t, pinhole)
			wantSilence(t, n.client, 0, p, at)
			n.revoke(t, pinhole)
			pinhole = exact(p, netip.AddrPortFrom(n.client.in(to), 20000), portPublished)
			n.open(t, pinhole)
			wantReached(t, n.client, 20000, p, at)
			wantSilence(t, n.client, 20001, p, at)
			n.revoke(t, pinhole)
			wantSilence(t, n.client, 20000, p, at)
		}
	}
	if k := servers.from(n.neighbour); k > 0 {
		t.Errorf("%d of the neighbour's datagrams came through, unanswered", k)
	}
	if k := servers.from(n.client); k != 2*len(n.host.addresses()) {
		t.Errorf("%d of the client's datagrams came through, want one through each UDP pinhole", k)
	}
}

func publishedStanding(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, behind, portBehind, portBehind2)
	for _, to := range n.host.addresses() {
		at, beside := netip.AddrPortFrom(to, portPublished), netip.AddrPortFrom(to, portBeside)
		client := netip.PrefixFrom(n.client.in(to), to.BitLen())
		for _, p := range protocols() {
			ports := []firewall.Port{{Protocol: p, Number: portPublished}}
			rules := insideRules()
			rules.OpenPorts = ports
			n.install(t, rules)
			for _, s := range []station{n.client, n.neighbour} {
				wantReached(t, s, 0, p, at)
				wantSilence(t, s, 0, p, beside)
				wantSilence(t, s, 0, other(p), at)
			}
			for name, keep := range map[string]firewall.Keep{
				"source":               {Source: client, Ports: ports},
				"source and interface": {Source: client, Interface: "eth*", Ports: ports},
			} {
				rules := insideRules()
				rules.Keep = []firewall.Keep{keep}
				n.install(t, rules)
				t.Logf("keep by %s: %s", name, keep)
				wantReached(t, n.client, 0, p, at)
				wantSilence(t, n.client, 0, p, beside)
				wantSilence(t, n.neighbour, 0, p, at)
			}
			rules = insideRules()
			rules.Keep = []firewall.Keep{{Interface: "eth1"}, {Interface: insides}}
			n.install(t, rules)
			wantSilence(t, n.client, 0, p, at)
		}
	}
}

// startPublished starts flows of both protocols and families through published
// ports, each in a pinhole for just its source port.
func (n *network) startPublished(t *testing.T, behind station) []*flow {
	var flows []*flow
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			entrance := wide(p, n.client.in(to), portPublished)
			n.open(t, entrance)
			f := startFlow(t, p, way{from: n.client, server: behind,
				at:    netip.AddrPortFrom(to, portPublished),
				local: netip.AddrPortFrom(behind.in(to), portBehind)})
			n.apply(t, firewall.Change{
				Revoke: []firewall.Pinhole{entrance}, Open: []firewall.Pinhole{f.pinhole}})
			f.wantAlive(t)
			flows = append(flows, f)
		}
	}
	return flows
}

// publishedCut: the machine behind goes on sending by itself; that must end too,
// also when the flow was there before the firewall.
func publishedCut(t *testing.T, n *network) {
	behind := n.addBehind(t)
	var before []*flow
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			before = append(before, startFlow(t, p, way{from: n.neighbour, server: behind,
				at:    netip.AddrPortFrom(to, portPublished),
				local: netip.AddrPortFrom(behind.in(to), portBehind)}))
		}
	}
	n.install(t, insideRules())
	for _, f := range before {
		f.wantCut(t)
		f.host.Close()
	}
	flows := n.startPublished(t, behind)
	for _, f := range flows {
		stalls := testkit.WatchStalls(t)
		n.revoke(t, f.pinhole)
		revoked := time.Now()
		late := f.wantCut(t).Sub(revoked)
		if late > stalls.Within(50*time.Millisecond) {
			t.Errorf("%s: went on for %v after the revocation", f.name, late)
		}
		n.open(t, f.pinhole)
		if f.pinhole.Protocol == firewall.UDP {
			f.wantAlive(t)
		}
	}
}

func publishedDeadline(t *testing.T, n *network) {
	behind := n.addBehind(t)
	n.install(t, insideRules())
	flows := n.startPublished(t, behind)
	const ttl = time.Second // whole: some sets count in seconds
	var change firewall.Change
	for _, f := range flows {
		p := f.pinhole
		p.TTL = ttl
		change.Open = append(change.Open, p)
	}
	stalls := testkit.WatchStalls(t)
	before := time.Now()
	n.apply(t, change)
	after := time.Now()
	if err := n.fw.Close(); err != nil { // no daemon is left to help
		t.Fatal(err)
	}
	wantCutAt(t, flows, before.Add(ttl), after.Add(ttl), stalls)
}

// wantCutAt fails unless the flows lived until the first moment, and not for
// more than 50 ms after the second.
func wantCutAt(t *testing.T, flows []*flow, earliest, latest time.Time, stalls *testkit.Stalls) {
	t.Helper()
	for _, f := range flows {
		last := f.wantCut(t)
		if early := earliest.Sub(last); early > stalls.Within(100*time.Millisecond) {
			t.Errorf("%s: cut %v before its deadline", f.name, early)
		}
		if late := last.Sub(latest); late > stalls.Within(50*time.Millisecond) {
			t.Errorf("%s: went on for %v after its deadline", f.name, late)
		}
	}
}

// publishedTurnAround: conntrack forgets a revoked flow, then the server behind
// sends again. To conntrack that is a flow from inside.
func publishedTurnAround(t *testing.T, n *network) {
	behind := n.addBehind(t)
	n.install(t, insideRules())
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			entrance := wide(p, n.client.in(to), portPublished)
			n.open(t, entrance)
			f := startFlow(t, p, way{from: n.client, server: behind,
				at:    netip.AddrPortFrom(to, portPublished),
				local: netip.AddrPortFrom(behind.in(to), portBehind)})
			n.revoke(t, entrance)
			f.wantCut(t)
			seen := newTap(t, n.client)
			n.host.ForgetFlows(t)
			while := 2 * shortly
			if p == firewall.TCP {
				while = 2 * time.Second // a server whose packets are lost sends less and less often
			}
			for _, packet := range seen.wait(t, n.host, while) {
				t.Errorf("%s: left for the client: %x", f.name, packet)
			}
			f.client.Close()
			f.host.Close()
		}
	}
}

// routedThrough: who routes packets to the machine behind through the host meets
// silence, whatever is open to it on the host itself.
func routedThrough(t *testing.T, n *network) {
	behind := n.addBehind(t)
	servers := serveEcho(t, behind, portBehind, portPublished)
	for _, s := range []station{n.client, n.neighbour} {
		s.Route(t, "10.77.0.0/24", "192.0.2.1")
		s.Route(t, "2001:db8:77::/64", "2001:db8::1")
	}
	for _, to := range behind.addresses() {
		wantReached(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(to, portBehind))
	}
	rules := insideRules()
	rules.OpenPorts = []firewall.Port{{Protocol: firewall.TCP, Number: portPublished}}
	rules.Keep = []firewall.Keep{{Source: netip.PrefixFrom(n.client.v4, 32)},
		{Source: netip.PrefixFrom(n.client.v6, 128)}}
	n.install(t, rules)
	before := servers.from(n.client)
	for _, to := range behind.addresses() {
		for _, p := range protocols() {
			n.open(t, wide(p, n.client.in(to), portBehind), wide(p, n.client.in(to), portPublished))
			for _, port := range []uint16{portBehind, portPublished, portClosed} {
				wantSilence(t, n.client, 0, p, netip.AddrPortFrom(to, port))
				wantSilence(t, n.neighbour, 0, p, netip.AddrPortFrom(to, port))
			}
		}
		if ping(t, n.client, to, shortly) {
			t.Errorf("%v behind the host answers a ping", to)
		}
	}
	if k := servers.from(n.client) + servers.from(n.neighbour) - before; k > 0 {
		t.Errorf("%d datagrams came through, unanswered", k)
	}
}

// hopeless is a packet whose hop limit ends at the host: a router answers it.
func hopeless(from, to netip.Addr, protocol byte, payload []byte) []byte {
	whole := firstFragment(from, to, protocol, payload)
	if from.Is4() {
		whole[6], whole[8], whole[10], whole[11] = 0, 1, 0, 0 // no fragment, one hop
		sum := checksum(whole[:20])
		whole[10], whole[11] = byte(sum>>8), byte(sum)
		return whole
	}
	header := append([]byte(nil), whole[:40]...)
	header[4], header[5] = byte(len(payload)>>8), byte(len(payload))
	header[6], header[7] = protocol, 1
	return append(header, payload...)
}

// forwardingSilence: nothing that the host cannot send on is complained of to a
// stranger, or to a client after its time.
func forwardingSilence(t *testing.T, n *network) {
	behind := n.addBehind(t)
	for prefix, gateway := range map[string]string{
		"10.77.0.0/24": "192.0.2.1", "2001:db8:77::/64": "2001:db8::1",
		"10.78.0.0/24": "192.0.2.1", "2001:db8:78::/64": "2001:db8::1"} {
		n.neighbour.Route(t, prefix, gateway)
	}
	n.host.Sysctl(t, "ipv4/icmp_ratelimit", "0")
	n.host.Sysctl(t, "ipv6/icmp/ratelimit", "0")
	n.install(t, insideRules())
	flows := n.startPublished(t, behind)
	for _, one := range flows {
		n.revoke(t, one.pinhole)
		one.wantCut(t)
		one.client.Close() // what it sends now is only what the test sends
	}
	type sent struct {
		from   station
		packet []byte
		to     netip.Addr
	}
	var all []sent
	for _, to := range n.host.addresses() {
		for _, target := range []netip.AddrPort{
			netip.AddrPortFrom(to, portPublished),
			netip.AddrPortFrom(behind.in(to), portBehind),
			netip.AddrPortFrom(beyond(to), portBehind),
		} {
			source := netip.AddrPortFrom(n.neighbour.in(to), 40000)
			all = append(all, sent{n.neighbour, hopeless(source.Addr(), target.Addr(), 17,
				udpSegment(source, target, 10)), target.Addr()})
		}
	}
	for _, one := range flows {
		if one.pinhole.Protocol == firewall.UDP {
			source := netip.AddrPortFrom(one.pinhole.Source, one.pinhole.SourcePort)
			target := netip.AddrPortFrom(n.host.in(source.Addr()), portPublished)
			all = append(all, sent{n.client, hopeless(source.Addr(), target.Addr(), 17,
				udpSegment(source, target, 10)), target.Addr()})
		}
	}
	for _, s := range []station{n.neighbour, n.client} {
		seen := newTap(t, s)
		for _, one := range all {
			if one.from != s {
				continue
			}
			sendWhole(t, s, one.to, one.packet)
		}
		for _, answer := range seen.wait(t, n.host, shortly) {
			t.Errorf("the host sent %x", answer)
		}
	}
	// The same packets are answered without the firewall.
	if err := n.fw.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []station{n.neighbour, n.client} {
		seen := newTap(t, s)
		for _, one := range all {
			if one.from != s {
				continue
			}
			what := fmt.Sprintf("%x is answered without the firewall", one.packet)
			testkit.Eventually(t, soon, what, func() bool {
				sendWhole(t, s, one.to, one.packet)
				return len(seen.from(t, n.host)) > 0
			})
		}
	}
}

// beyond is an address to which the host has no route.
func beyond(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.MustParseAddr("10.78.0.2")
	}
	return netip.MustParseAddr("2001:db8:78::2")
}

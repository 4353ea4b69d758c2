package fwtest

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// probe is something a scanner sends.
type probe struct {
	name string
	send func(t testing.TB)
	// answered says that a host without a firewall answers at once.
	answered bool
}

// probes are all that the neighbour, a stranger here, sends to the host.
func (n *network) probes(to netip.Addr) []probe {
	from := n.neighbour.in(to)
	raw := func(protocol byte, payload []byte) func(testing.TB) {
		return func(t testing.TB) { sendRaw(t, n.neighbour, to, protocol, payload) }
	}
	var list []probe
	for _, sourcePort := range []uint16{40000, 53, 67, portA} {
		source := netip.AddrPortFrom(from, sourcePort)
		for name, port := range map[string]uint16{"open": portA, "closed": portClosed, "unused": 1} {
			at := netip.AddrPortFrom(to, port)
			for flags, what := range map[byte]string{
				0x02: "SYN", 0x10: "ACK", 0x12: "SYN+ACK", 0x01: "FIN", 0x00: "null", 0x29: "xmas"} {
				// A listener ignores what is no SYN or ACK (RFC 9293, 3.10.7.2).
				answered := name != "open" || flags&0x12 != 0
				list = append(list, probe{"tcp " + what + " to an " + name + " port",
					raw(syscall.IPPROTO_TCP, tcpSegment(source, at, flags)), answered})
			}
			list = append(list, probe{"udp to an " + name + " port",
				raw(syscall.IPPROTO_UDP, udpSegment(source, at, 10)), name == "open"})
			list = append(list, probe{"fragmented udp to an " + name + " port",
				raw(syscall.IPPROTO_UDP, udpSegment(source, at, 3000)), name == "open"})
			list = append(list, probe{"half a datagram to an " + name + " port", func(t testing.TB) {
				sendWhole(t, n.neighbour, to, firstFragment(from, to, syscall.IPPROTO_UDP,
					udpSegment(source, at, 512)))
			}, false})
		}
	}
	echo := raw(syscall.IPPROTO_ICMP, echoRequest4())
	if to.Is6() {
		echo = raw(syscall.IPPROTO_ICMPV6, echoRequest6())
	}
	return append(list,
		probe{"echo request", echo, true},
		probe{"unknown protocol", raw(250, []byte("12345678")), false}) // ICMP is rate-limited
}

func silence(t *testing.T, n *network) {
	servers := serveEcho(t, n.host, portA)
	for _, name := range []string{"ipv4/ipfrag_time", "ipv6/ip6frag_time"} {
		n.host.Sysctl(t, name, "1")
	}
	// Somebody else's rule that answers must not come first.
	n.host.Run(t, "nft", "add table inet other; add chain inet other input "+
		"{ type filter hook input priority -1; }; "+
		"add rule inet other input meta l4proto { tcp, udp } reject")
	n.install(t, firewall.Rules{})
	n.host.Sysctl(t, "netfilter/nf_conntrack_frag6_timeout", "1")
	// A pinhole for somebody else changes nothing for a stranger.
	for _, p := range protocols() {
		n.open(t, wide(p, n.client.v4, portA), wide(p, n.client.v6, portA))
	}
	seen := newTap(t, n.neighbour)
	for _, to := range n.host.addresses() {
		for _, p := range n.probes(to) {
			p.send(t)
			for _, answer := range seen.from(t, n.host) {
				t.Errorf("%s at %v: the host sent %x", p.name, to, answer)
			}
		}
	}
	// The kernel complains of half a datagram when it has waited long enough.
	testkit.Eventually(t, soon, "the halves are given up", func() bool {
		return n.halvesGivenUp(t, 4) && n.halvesGivenUp(t, 6)
	})
	for _, answer := range seen.from(t, n.host) {
		t.Errorf("late: the host sent %x", answer)
	}
	if k := servers.from(n.neighbour); k > 0 {
		t.Errorf("%d of the stranger's datagrams came through, unanswered", k)
	}
	n.answersWithoutFirewall(t, seen)
}

// answersWithoutFirewall proves that the silence was the firewall's.
func (n *network) answersWithoutFirewall(t *testing.T, seen *tap) {
	t.Helper()
	n.host.Run(t, "nft", "delete", "table", "inet", "other")
	if err := n.fw.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, to := range n.host.addresses() {
		for _, p := range n.probes(to) {
			if !p.answered {
				continue
			}
			seen.from(t, n.host)
			p.send(t)
			testkit.Eventually(t, soon, p.name+" is answered without the firewall", func() bool {
				return len(seen.from(t, n.host)) > 0
			})
		}
	}
}

// halvesGivenUp reads the kernel's counter of fragments whose rest never came.
func (n *network) halvesGivenUp(t *testing.T, version int) bool {
	t.Helper()
	if version == 6 {
		_, value, _ := strings.Cut(n.host.read(t, "thread-self/net/snmp6"), "Ip6ReasmTimeout")
		return len(strings.Fields(value)) > 0 && strings.Fields(value)[0] != "0"
	}
	var names, values []string
	for line := range strings.Lines(n.host.read(t, "thread-self/net/snmp")) {
		if fields, ok := strings.CutPrefix(line, "Ip: "); ok {
			names, values = values, strings.Fields(fields)
		}
	}
	i := slices.Index(names, "ReasmTimeout")
	return i >= 0 && values[i] != "0"
}

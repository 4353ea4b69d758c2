package fwtest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// sendUntil sends datagrams to a server, as fast as it can, until stopped.
func sendUntil(t testing.TB, from station, to netip.AddrPort, stop <-chan struct{}) {
	t.Helper()
	var c net.Conn
	var err error
	from.Do(t, func() { c, err = net.Dial("udp", to.String()) })
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for {
		select {
		case <-stop:
			return
		default:
			c.Write([]byte("x")) // refused after the end of the firewall
		}
	}
}

func (n *network) dropped(t testing.TB) firewall.Dropped {
	t.Helper()
	d, err := n.fw.Dropped(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func droppedKinds(t *testing.T, n *network) {
	ctx := context.Background()
	if _, err := n.fw.Dropped(ctx); !errors.Is(err, firewall.ErrNotInstalled) {
		t.Errorf("before Install: %v, want ErrNotInstalled", err)
	}
	behind := n.addBehind(t)
	n.neighbour.Route(t, "10.77.0.0/24", "192.0.2.1")
	n.neighbour.Route(t, "2001:db8:77::/64", "2001:db8::1")
	n.install(t, insideRules())
	n.open(t, wide(firewall.UDP, n.client.v4, portA), wide(firewall.UDP, n.client.v6, portPublished))
	datagram := func(from station, to netip.AddrPort) func() {
		return func() {
			source := netip.AddrPortFrom(from.in(to.Addr()), 40000)
			sendRaw(t, from, to.Addr(), syscall.IPPROTO_UDP, udpSegment(source, to, 10))
		}
	}
	for _, to := range n.host.addresses() {
		peer := netip.AddrPortFrom(n.neighbour.in(to), 40000)
		for _, test := range []struct {
			name  string
			send  func()
			count func(firewall.Dropped) uint64
		}{
			{"to a port without pinholes", datagram(n.neighbour, netip.AddrPortFrom(to, portB)),
				func(d firewall.Dropped) uint64 { return d.Input }},
			{"to a door", datagram(n.neighbour, netip.AddrPortFrom(to, portA)),
				func(d firewall.Dropped) uint64 { return d.Door }},
			{"from a door", func() {
				local := netip.AddrPortFrom(to, portA)
				sendRaw(t, n.host, peer.Addr(), syscall.IPPROTO_UDP, udpSegment(local, peer, 10))
			}, func(d firewall.Dropped) uint64 { return d.Door }},
			{"to a published port", datagram(n.neighbour, netip.AddrPortFrom(to, portPublished)),
				func(d firewall.Dropped) uint64 { return d.Forward }},
			{"through the host", datagram(n.neighbour, netip.AddrPortFrom(behind.in(to), portB)),
				func(d firewall.Dropped) uint64 { return d.Forward }},
			{"out of no flow", func() {
				local := netip.AddrPortFrom(to, portB)
				sendRaw(t, n.host, peer.Addr(), syscall.IPPROTO_TCP, tcpSegment(local, peer, 0x10))
			}, func(d firewall.Dropped) uint64 { return d.Output }},
		} {
			before := n.dropped(t)
			const packets = 20
			for range packets {
				test.send()
			}
			testkit.Eventually(t, soon, "dropped "+test.name+" are counted", func() bool {
				return test.count(n.dropped(t)) >= test.count(before)+packets
			})
			// Now and then a packet of the link's own is dropped too.
			after := n.dropped(t)
			other := after.Input + after.Door + after.Forward + after.Output - test.count(after) -
				(before.Input + before.Door + before.Forward + before.Output - test.count(before))
			if other >= packets {
				t.Errorf("%s: %+v became %+v", test.name, before, after)
			}
		}
	}
	if err := n.fw.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.fw.Dropped(ctx); !errors.Is(err, firewall.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

package fwtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func ownFlows(t *testing.T, n *network) {
	serveEcho(t, n.client, portA)
	n.install(t, firewall.Rules{})
	for _, to := range n.client.addresses() {
		for _, p := range protocols() {
			wantReached(t, n.host, 0, p, netip.AddrPortFrom(to, portA))
			// Errors of own flows come in too: no waiting for what is refused.
			closed := netip.AddrPortFrom(to, portClosed)
			if got := try(t, n.host, 0, p, closed, soon); got != refused {
				t.Errorf("%s to the closed %v: %s, want it refused", p, closed, got)
			}
		}
		if !ping(t, n.host, to, soon) {
			t.Errorf("no answer to a ping of %v", to)
		}
		if ping(t, n.client, n.host.in(to), shortly) {
			t.Errorf("the host answers a ping to %v", n.host.in(to))
		}
	}
}

// ping sends one echo request and reports whether its reply came.
func ping(t testing.TB, from station, to netip.Addr, wait time.Duration) bool {
	t.Helper()
	network, request, reply := "ip4:icmp", echoRequest4(), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", echoRequest6(), 129
	}
	var c net.PacketConn
	var err error
	from.Do(t, func() { c, err = net.ListenPacket(network, from.in(to).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(wait))
	for buffer := make([]byte, 1500); ; {
		k, _, err := c.ReadFrom(buffer)
		if err != nil {
			return false
		}
		if k >= 8 && buffer[0] == reply && bytes.Equal(buffer[4:8], request[4:8]) {
			return true
		}
	}
}

// echoRequest4 is type 8, code 0, checksum, identifier, sequence (RFC 792). The
// kernel fills in the checksum of version 6 itself (RFC 3542, 3.1).
func echoRequest4() []byte {
	request := []byte{8, 0, 0, 0, 0x70, 0x6f, 0, 1}
	binary.BigEndian.PutUint16(request[2:], checksum(request))
	return request
}

func echoRequest6() []byte { return []byte{128, 0, 0, 0, 0x70, 0x6f, 0, 1} }

// neighbours: both ends look each other's link address up anew, in both directions.
func neighbours(t *testing.T, n *network) {
	serveEcho(t, n.host, portA)
	serveEcho(t, n.client, portA)
	n.install(t, firewall.Rules{})
	for range 3 {
		for _, to := range n.host.addresses() {
			n.open(t, wide(firewall.UDP, n.client.in(to), portA))
			n.host.ForgetNeighbours(t, testkit.Interface)
			n.client.ForgetNeighbours(t, testkit.Interface)
			wantReached(t, n.client, 0, firewall.UDP, netip.AddrPortFrom(to, portA))
			n.host.ForgetNeighbours(t, testkit.Interface)
			n.client.ForgetNeighbours(t, testkit.Interface)
			wantReached(t, n.host, 0, firewall.UDP, netip.AddrPortFrom(n.client.in(to), portA))
		}
	}
}

// pathMTU has a network of its own with a narrow link in the middle, which only
// an ICMP message of the first router tells about:
//
//	host 198.51.100.1 ─1500─ near ─1300─ far ─1500─ client 203.0.113.1
func pathMTU(t *testing.T, n *network) {
	host, client := distant(t)
	n.host, n.client = host, client
	n.fw = n.newFirewall(t)
	n.install(t, firewall.Rules{})
	for _, to := range host.addresses() {
		n.open(t, wide(firewall.TCP, client.in(to), portA))
		download(t, client, host, netip.AddrPortFrom(to, portA)) // an inbound flow
	}
	for _, to := range client.addresses() {
		upload(t, host, client, netip.AddrPortFrom(to, portA)) // one of the host's own
	}
}

func distant(t *testing.T) (host, client station) {
	host = station{testkit.Netns(t), netip.MustParseAddr("198.51.100.1"),
		netip.MustParseAddr("2001:db8:1::1")}
	client = station{testkit.Netns(t), netip.MustParseAddr("203.0.113.1"),
		netip.MustParseAddr("2001:db8:3::1")}
	near, far := testkit.Netns(t), testkit.Netns(t)
	testkit.Cable(t, host.Namespace, "eth0", []string{"198.51.100.1/24", "2001:db8:1::1/64"},
		near, "eth0", []string{"198.51.100.2/24", "2001:db8:1::2/64"})
	testkit.Cable(t, near, "eth1", []string{"192.0.2.1/24", "2001:db8:2::1/64"},
		far, "eth1", []string{"192.0.2.2/24", "2001:db8:2::2/64"})
	testkit.Cable(t, client.Namespace, "eth0", []string{"203.0.113.1/24", "2001:db8:3::1/64"},
		far, "eth0", []string{"203.0.113.2/24", "2001:db8:3::2/64"})
	for _, router := range []*testkit.Namespace{near, far} {
		router.MTU(t, "eth1", 1300)
		router.Sysctl(t, "ipv4/ip_forward", "1")
		router.Sysctl(t, "ipv6/conf/all/forwarding", "1")
	}
	near.Route(t, "203.0.113.0/24", "192.0.2.2")
	near.Route(t, "2001:db8:3::/64", "2001:db8:2::2")
	far.Route(t, "198.51.100.0/24", "192.0.2.1")
	far.Route(t, "2001:db8:1::/64", "2001:db8:2::1")
	host.Route(t, "default4", "198.51.100.2")
	host.Route(t, "default6", "2001:db8:1::2")
	client.Route(t, "default4", "203.0.113.2")
	client.Route(t, "default6", "2001:db8:3::2")
	return host, client
}

// bulk is many segments, each larger than the narrow link.
const bulk = 512 << 10

// download connects from a station to a server that sends bulk bytes.
func download(t *testing.T, from, server station, at netip.AddrPort) {
	t.Helper()
	l := listen(t, server, at)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.SetDeadline(time.Now().Add(2 * soon))
			_, err = c.Write(make([]byte, bulk))
			c.Close()
		}
		done <- err
	}()
	receive(t, dial(t, from, at), at)
	l.Close()
	if err := <-done; err != nil {
		t.Errorf("send from %v: %v", at, err)
	}
}

// upload connects from a station to a server and sends bulk bytes there.
func upload(t *testing.T, from, server station, at netip.AddrPort) {
	t.Helper()
	l := listen(t, server, at)
	defer l.Close()
	c := dial(t, from, at)
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, bulk))
		c.Close()
		done <- err
	}()
	receive(t, accepted, at)
	if err := <-done; err != nil {
		t.Errorf("send to %v: %v", at, err)
	}
}

func listen(t *testing.T, s station, at netip.AddrPort) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	var err error
	s.Do(t, func() { l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	l.SetDeadline(time.Now().Add(soon))
	return l
}

func dial(t *testing.T, from station, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	from.Do(t, func() { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(2 * soon))
	return c
}

func receive(t *testing.T, c net.Conn, at netip.AddrPort) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	if k, err := io.Copy(io.Discard, c); err != nil || k != bulk {
		t.Errorf("transfer with %v behind a narrow link: %d of %d bytes, %v", at, k, bulk, err)
	}
}

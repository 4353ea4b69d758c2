package listen

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/testkit"
)

const (
	testPort   = 4040
	testLength = 256
	patience   = 20 * time.Second
)

// wire is a host and a stranger, joined by a cable.
type wire struct {
	host, stranger *testkit.Namespace
}

// Each end has an address that the route would not choose by itself.
var (
	hostAddresses     = []string{"192.0.2.1/24", "192.0.2.3/24", "2001:db8::1/64", "2001:db8::3/64"}
	strangerAddresses = []string{"192.0.2.2/24", "2001:db8::2/64"}
)

func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{host: testkit.Netns(t), stranger: testkit.Netns(t)}
	testkit.Cable(t, w.host, "eth0", hostAddresses, w.stranger, "eth0", strangerAddresses)
	return w
}

// family is what a test needs to know of IPv4 or IPv6.
type family struct {
	name                   string
	host, second, stranger netip.Addr
	loopback               netip.Addr
	udp, icmp              string
}

var families = []family{
	{"ipv4", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3"),
		netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1"),
		"udp4", "ip4:icmp"},
	{"ipv6", netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::3"),
		netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("::1"),
		"udp6", "ip6:ipv6-icmp"},
}

// kind is one implementation of Listener.
type kind struct {
	name string
	open func(t testing.TB, n *testkit.Namespace) Listener
}

var kinds = []kind{
	{"socket", openSocket},
	{"capture", func(t testing.TB, n *testkit.Namespace) Listener { return openCapture(t, n) }},
}

func openSocket(t testing.TB, n *testkit.Namespace) Listener {
	t.Helper()
	return open(t, n, func() (Listener, error) {
		return Socket(context.Background(), SocketConfig{
			Address: netip.AddrPortFrom(netip.IPv6Unspecified(), testPort), Length: testLength,
		})
	})
}

func openCapture(t testing.TB, n *testkit.Namespace, interfaces ...string) Listener {
	t.Helper()
	return open(t, n, func() (Listener, error) {
		return Capture(CaptureConfig{
			Port: testPort, Interfaces: interfaces, Length: testLength,
		})
	})
}

func open(t testing.TB, n *testkit.Namespace, f func() (Listener, error)) Listener {
	t.Helper()
	var l Listener
	var err error
	n.Do(t, func() { l, err = f() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// onBoth runs a test for each implementation and each address family.
func onBoth(t *testing.T, f func(t *testing.T, w *wire, k kind, fam family)) {
	for _, k := range kinds {
		for _, fam := range families {
			t.Run(k.name+"/"+fam.name, func(t *testing.T) {
				testkit.NoLeak(t)
				f(t, newWire(t), k, fam)
			})
		}
	}
}

// dial opens a UDP socket in a namespace.
func dial(t testing.TB, n *testkit.Namespace, fam family) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	var err error
	n.Do(t, func() { c, err = net.ListenUDP(fam.udp, nil) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// numbered is a datagram that can be told from others.
func numbered(n uint64) []byte {
	b := make([]byte, testLength)
	binary.BigEndian.PutUint64(b, n)
	b[testLength-1] = byte(n)
	return b
}

func send(t testing.TB, c *net.UDPConn, b []byte, to netip.Addr) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, testPort)); err != nil {
		t.Fatalf("send %d bytes to %s: %v", len(b), to, err)
	}
}

// next reads one packet; the test fails when there is none for a while.
func next(t testing.TB, l Listener) Packet {
	t.Helper()
	alarm := time.AfterFunc(patience, func() { l.Close() })
	defer alarm.Stop()
	packets := make([]Packet, 1)
	n, err := l.ReadBatch(packets)
	if errors.Is(err, net.ErrClosed) {
		t.Fatalf("nothing was delivered for %v", patience)
	}
	if err != nil || n != 1 {
		t.Fatalf("ReadBatch = %d, %v", n, err)
	}
	return packets[0]
}

// wantNext reads one packet, which must be the numbered one: everything sent
// before it was either read already or never delivered.
func wantNext(t testing.TB, l Listener, number uint64) Packet {
	t.Helper()
	p := next(t, l)
	if string(p.Data) != string(numbered(number)) {
		t.Fatalf("got % x... (%d bytes) from %s to %s, want number %d",
			p.Data[:min(16, len(p.Data))], len(p.Data), p.Source, p.Destination, number)
	}
	return p
}

// injector sends made-up Ethernet frames from the stranger to the host.
type injector struct {
	fd         int
	index      int
	source, to net.HardwareAddr
}

func newInjector(t testing.TB, w *wire) *injector {
	t.Helper()
	in := &injector{}
	w.host.Do(t, func() { in.to = hardware(t).HardwareAddr })
	w.stranger.Do(t, func() {
		ifi := hardware(t)
		in.source, in.index = ifi.HardwareAddr, ifi.Index
		var err error
		in.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(in.fd) })
	return in
}

func hardware(t testing.TB) *net.Interface {
	t.Helper()
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return ifi
}

// ethernet makes a frame to the host.
func (in *injector) ethernet(etherType uint16, packet []byte) []byte {
	b := append([]byte(nil), in.to...)
	b = append(b, in.source...)
	return append(binary.BigEndian.AppendUint16(b, etherType), packet...)
}

func (in *injector) send(t testing.TB, b []byte) {
	t.Helper()
	if err := unix.Sendto(in.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: in.index}); err != nil {
		t.Fatalf("inject %d bytes: %v", len(b), err)
	}
}

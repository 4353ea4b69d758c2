package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/testkit"
)

// dropEverything installs a firewall that lets nothing in.
func dropEverything(t testing.TB, n *testkit.Namespace) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(n.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "dark", Family: nftables.TableFamilyINet})
	// nft add chain inet dark input { type filter hook input priority 0; policy drop; }
	drop := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	// nft add chain inet dark early { type filter hook prerouting priority raw; }
	early := conn.AddChain(&nftables.Chain{
		Name: "early", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	// nft add rule inet dark early meta l4proto udp drop
	conn.AddRule(&nftables.Rule{Table: table, Chain: early, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolUDP}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		t.Fatalf("install firewall: %v", err)
	}
}

func TestCaptureReadsBehindAClosedFirewall(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			w := newWire(t)
			c := dial(t, w.stranger, fam)
			icmp := listenICMP(t, w, fam)
			// Neighbour discovery has to be over before it is dropped as well.
			other := openCapture(t, w.host)
			send(t, c, numbered(0), fam.host)
			p := wantNext(t, other, 0)
			if err := other.Reply(numbered(0), p.Source, p.Destination); err != nil {
				t.Fatal(err)
			}
			receive(t, c)
			other.Close()
			drain(t, icmp)

			dropEverything(t, w.host)
			l := openCapture(t, w.host)
			send(t, c, []byte("garbage"), fam.host)
			send(t, c, numbered(1), fam.host)
			p = wantNext(t, l, 1)
			if err := l.Reply(numbered(2), p.Source, p.Destination); err != nil {
				t.Fatal(err)
			}
			if got, _ := receive(t, c); string(got) != string(numbered(2)) {
				t.Errorf("reply = % x", got[:8])
			}
			if n := drain(t, icmp); n != 0 {
				t.Errorf("the host answered with %d ICMP messages", n)
			}
		})
	}
}

// listenICMP opens the stranger's raw socket for ICMP errors.
func listenICMP(t testing.TB, w *wire, fam family) *net.IPConn {
	t.Helper()
	var c net.PacketConn
	var err error
	w.stranger.Do(t, func() { c, err = net.ListenPacket(fam.icmp, "") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.IPConn)
}

// drain counts the "unreachable" messages that have arrived. Over a cable of the same machine
// they are there before what is sent after them.
func drain(t testing.TB, c *net.IPConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	b := make([]byte, 2048)
	err = raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			message := b[:n]
			if n > 0 && b[0]>>4 == 4 { // an IPv4 raw socket gives the header too
				message = b[20:n]
			}
			unreachable4, unreachable6 := byte(3), byte(1)
			if len(message) > 0 && (message[0] == unreachable4 || message[0] == unreachable6) {
				count++
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestICMPWouldHaveBeenSeen(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			w := newWire(t)
			icmp := listenICMP(t, w, fam)
			send(t, dial(t, w.stranger, fam), numbered(1), fam.host)
			count := 0
			testkit.Eventually(t, patience, "a host without firewall answers", func() bool {
				count += drain(t, icmp)
				return count > 0
			})
		})
	}
}

func TestCaptureBindsNothing(t *testing.T) {
	w := newWire(t)
	l := openCapture(t, w.host)
	for _, file := range []string{"udp", "udp6", "udplite", "udplite6", "tcp", "tcp6"} {
		if rows := procNet(t, w.host, file); len(rows) != 0 {
			t.Errorf("/proc/net/%s: %q", file, rows)
		}
	}
	for _, fam := range families {
		err := l.Reply(numbered(1), netip.AddrPortFrom(fam.stranger, 9),
			netip.AddrPortFrom(fam.host, testPort))
		if err != nil {
			t.Fatal(err)
		}
	}
	if rows := append(procNet(t, w.host, "udp"), procNet(t, w.host, "udp6")...); len(rows) != 0 {
		t.Errorf("after a reply: %q", rows)
	}
}

// procNet returns the rows below the heading of a file in a namespace's /proc/net.
func procNet(t testing.TB, n *testkit.Namespace, file string) []string {
	t.Helper()
	var b []byte
	var err error
	n.Do(t, func() { b, err = os.ReadFile("/proc/thread-self/net/" + file) })
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")[1:]
}

func TestRawSocketsQueueNothing(t *testing.T) {
	for i, file := range []string{"raw", "raw6"} {
		fam := families[i]
		t.Run(fam.name, func(t *testing.T) {
			w := newWire(t)
			l := openCapture(t, w.host)
			c := dial(t, w.stranger, fam)
			for i := range 100 {
				send(t, c, numbered(uint64(i)), fam.host)
				wantNext(t, l, uint64(i))
			}
			rows := procNet(t, w.host, file)
			if len(rows) != 1 {
				t.Fatalf("/proc/net/%s: %q, want one socket", file, rows)
			}
			const queues = 4 // tx_queue:rx_queue
			if got := strings.Fields(rows[0])[queues]; !strings.HasSuffix(got, ":00000000") {
				t.Errorf("queues are %s", got)
			}
		})
	}
}

func TestWholeSetOfFragmentsIsNotCaptured(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			w := newWire(t)
			l := open(t, w.host, func() (Listener, error) {
				return Capture(CaptureConfig{Port: testPort, Length: MaxLength})
			})
			c := dial(t, w.stranger, fam)
			for _, ns := range []*testkit.Namespace{w.stranger, w.host} {
				ns.MTU(t, "eth0", 1280)
			}
			// One byte more than the captured length has to be sent in two packets over IPv6; over
			// IPv4, where it would fit, no other length is captured either.
			send(t, c, make([]byte, MaxLength+1), fam.host)
			send(t, c, make([]byte, 4000), fam.host)
			send(t, c, make([]byte, MaxLength), fam.host)
			if p := next(t, l); len(p.Data) != MaxLength {
				t.Errorf("%d bytes delivered", len(p.Data))
			}
		})
	}
}

func TestCaptureReadsFromTheNamedInterfacesOnly(t *testing.T) {
	w, fam := newWire(t), families[0]
	outside, inside := dial(t, w.stranger, fam), dial(t, w.host, fam)

	l := openCapture(t, w.host, "lo")
	send(t, outside, numbered(1), fam.host)
	send(t, inside, numbered(2), fam.host)
	wantNext(t, l, 2)

	l = openCapture(t, w.host, "eth0")
	send(t, inside, numbered(3), fam.host)
	send(t, outside, numbered(4), fam.host)
	wantNext(t, l, 4)

	l = openCapture(t, w.host, "lo", "eth0")
	send(t, inside, numbered(5), fam.host)
	wantNext(t, l, 5)
	send(t, outside, numbered(6), fam.host)
	wantNext(t, l, 6)

	w.host.Do(t, func() {
		_, err := Capture(CaptureConfig{
			Port: testPort, Length: testLength, Interfaces: []string{"lo", "eth9"}})
		if err == nil || !strings.Contains(err.Error(), `"eth9"`) {
			t.Errorf("an interface that is not there: %v", err)
		}
	})
}

// floodWaiting fills the ring of IPv4 with frames and then sends one IPv6 packet.
func floodWaiting(t *testing.T, frames int, spoil byte) *capture {
	t.Helper()
	w := newWire(t)
	c := openCapture(t, w.host).(*capture)
	in := newInjector(t, w)
	p := build(t, netip.AddrPortFrom(families[0].stranger, 1234),
		netip.AddrPortFrom(families[0].host, testPort), numbered(0))
	p[26] ^= spoil // of the UDP checksum
	for range frames {
		in.send(t, in.ethernet(uint16(layers.EthernetTypeIPv4), p))
	}
	send(t, dial(t, w.stranger, families[1]), numbered(1), families[1].host)
	return c
}

func TestFloodOverOneFamilyDoesNotStarveTheOther(t *testing.T) {
	const batch = 32
	c := floodWaiting(t, 50*batch, 0)
	packets := make([]Packet, batch)
	for range 2 {
		n, err := c.ReadBatch(packets)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets[:n] {
			if p.Source.Addr().Is6() {
				return
			}
		}
	}
	t.Error("two batches of the flood were delivered before the other family's packet")
}

func TestFloodOfBadPacketsDoesNotStarveTheOtherFamily(t *testing.T) {
	const batch = 32
	c := floodWaiting(t, 50*batch, 1)
	c.turn = 1 // IPv4 is next
	if n, err := c.ReadBatch(make([]Packet, batch)); n != 1 || err != nil {
		t.Fatalf("ReadBatch = %d, %v", n, err)
	}
	if !c.rings[0].read(func(frame) {}) {
		t.Error("all of the flood was read before the other family's packet")
	}
}

func TestRingIsUsedAgain(t *testing.T) {
	w, fam := newWire(t), families[0]
	l := openCapture(t, w.host)
	f := newFlooder(t, w, fam)
	alarm := time.AfterFunc(12*patience, func() { l.Close() })
	defer alarm.Stop()
	packets := make([]Packet, floodBatch)
	for sent := uint64(0); sent < 2*ringSlots+ringSlots/2; sent += floodBatch {
		for i := range f.messages {
			f.messages[i].Buffers[0] = numbered(sent + uint64(i))
		}
		f.burst(t)
		for got := 0; got < floodBatch; {
			n, err := l.ReadBatch(packets)
			if err != nil {
				t.Fatalf("after %d packets: %v", sent+uint64(got), err)
			}
			for _, p := range packets[:n] {
				if string(p.Data) != string(numbered(sent+uint64(got))) {
					t.Fatalf("packet %d has % x", sent+uint64(got), p.Data[:8])
				}
				got++
			}
		}
	}
}

func TestDataOutlivesClose(t *testing.T) {
	w, fam := newWire(t), families[0]
	l := openCapture(t, w.host)
	send(t, dial(t, w.stranger, fam), numbered(7), fam.host)
	p := wantNext(t, l, 7)
	l.Close()
	if string(p.Data) != string(numbered(7)) { // in unmapped memory this is a SIGSEGV
		t.Errorf("after Close the data are % x", p.Data[:8])
	}
}

func TestCaptureWithoutTheCapabilitySaysWhichAndHow(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeak(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread without capabilities ends here
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		_, err := Capture(CaptureConfig{Port: testPort, Length: testLength})
		done <- err
	}()
	err := <-done
	if !errors.Is(err, ErrPermission) {
		t.Fatalf("Capture = %v, want ErrPermission", err)
	}
	for _, hint := range []string{"CAP_NET_RAW", "setcap", "AmbientCapabilities"} {
		if !strings.Contains(err.Error(), hint) {
			t.Errorf("%q does not mention %s", err, hint)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for _, c := range []CaptureConfig{
		{Port: 0, Length: testLength}, {Port: 1, Length: 0}, {Port: 1, Length: -1},
		{Port: 1, Length: MaxLength + 1},
		{Port: 1, Length: testLength, Interfaces: make([]string, maxInterfaces+1)},
	} {
		if l, err := Capture(c); err == nil || l != nil {
			t.Errorf("Capture(%+v) = %v, %v", c, l, err)
		}
	}
	local := netip.MustParseAddrPort("127.0.0.1:0")
	for _, c := range []SocketConfig{
		{Length: testLength}, {Address: local}, {Address: local, Length: MaxLength + 1},
		{Address: netip.MustParseAddrPort("224.0.0.1:0"), Length: testLength},
	} {
		if l, err := Socket(context.Background(), c); err == nil || l != nil {
			t.Errorf("Socket(%+v) = %v, %v", c, l, err)
		}
	}
}

// TestSocketOfOneFamily covers the sockets that are not dual stack.
func TestSocketOfOneFamily(t *testing.T) {
	for _, fam := range families {
		for _, bound := range []netip.Addr{fam.second, netip.IPv4Unspecified()} {
			if bound.Is4() != fam.host.Is4() {
				continue
			}
			t.Run(bound.String(), func(t *testing.T) {
				w := newWire(t)
				address := netip.AddrPortFrom(bound, testPort)
				l := open(t, w.host, func() (Listener, error) {
					return Socket(t.Context(), SocketConfig{Address: address, Length: testLength})
				})
				if l.Addr() != address {
					t.Errorf("Addr = %s, want %s", l.Addr(), address)
				}
				c := dial(t, w.stranger, fam)
				send(t, c, numbered(1), fam.second)
				p := wantNext(t, l, 1)
				if want := netip.AddrPortFrom(fam.second, testPort); p.Destination != want {
					t.Errorf("destination = %s, want %s", p.Destination, want)
				}
				if err := l.Reply(numbered(2), p.Source, p.Destination); err != nil {
					t.Fatal(err)
				}
				if _, from := receive(t, c); from != p.Destination {
					t.Errorf("reply is from %s", from)
				}
			})
		}
	}
}

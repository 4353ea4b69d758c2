package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// sendJoined sends b as datagrams of the given size in one call (UDP_SEGMENT).
func sendJoined(t testing.TB, c *net.UDPConn, b []byte, size uint16) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(oob[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(oob[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(oob[16:], size)
	if _, _, err := c.WriteMsgUDP(b, oob, nil); err != nil {
		t.Fatalf("send joined datagrams: %v", err)
	}
}

// markECN makes c send with the congestion mark ECT(0).
func markECN(t testing.TB, c *net.UDPConn, six bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if six {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 2)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, 2)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// receiveECN asks for congestion marks, as QUIC does.
func receiveECN(t testing.TB, g *Gate) {
	t.Helper()
	raw, err := g.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	})
}

// ecn reads the congestion mark as QUIC does, and fails on what QUIC would not take.
func ecn(t testing.TB, m *ipv4.Message) byte {
	t.Helper()
	for left := m.OOB[:m.NN]; len(left) > 0; {
		header, body, next, err := unix.ParseOneSocketControlMessage(left)
		if err != nil {
			t.Fatal(err)
		}
		if header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TOS ||
			header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_TCLASS {
			return body[0] & 3
		}
		left = next
	}
	t.Fatal("no congestion mark")
	return 0
}

// checkSplitting sends joined datagrams from c and wants them one by one.
func checkSplitting(t *testing.T, g *Gate, c *net.UDPConn) {
	t.Helper()
	const size, last, count = 1200, 333, 20
	var all []byte
	for i := range count {
		all = append(all, bytes.Repeat([]byte{byte(i + 1)}, size)...)
	}
	all = append(all, bytes.Repeat([]byte{0xff}, last)...)
	sendJoined(t, c, all, size)
	g.SetReadDeadline(time.Now().Add(5 * time.Second))
	reads := 0
	for i := 0; i <= count; reads++ {
		ms := messages(8)
		n, err := g.ReadBatch(ms, 0)
		if n < 1 || err != nil {
			t.Fatalf("read: %d, %v", n, err)
		}
		for _, m := range ms[:n] {
			want := all[min(i*size, len(all)):min((i+1)*size, len(all))]
			if !bytes.Equal(m.Buffers[0][:m.N], want) {
				t.Fatalf("datagram %d: got %d bytes, want %d", i, m.N, len(want))
			}
			if got := ecn(t, &m); got != 2 {
				t.Errorf("datagram %d: congestion mark %d", i, got)
			}
			if got := plain(m.Addr.(*net.UDPAddr).AddrPort()); got != plain(sourceOf(c)) {
				t.Errorf("datagram %d: source %v", i, got)
			}
			i++
		}
	}
	// Joined datagrams come in full batches; single ones would come one by one.
	if want := (count + 8) / 8; reads != want {
		t.Errorf("took %d reads, want %d: the kernel did not join them", reads, want)
	}
}

func TestJoinedDatagramsAreSplit(t *testing.T) {
	for address, to := range map[string]string{
		loopback4: "127.0.0.1", loopback6: "::1", "[::]:0": "127.0.0.1", "0.0.0.0:0": "127.0.0.1",
	} {
		t.Run(address, func(t *testing.T) {
			g := testGate(t, address, nil)
			receiveECN(t, g)
			ip := netip.MustParseAddr(to)
			c := newSocket(t, netip.AddrPortFrom(ip, g.Addr().Port()))
			markECN(t, c, ip.Is6())
			g.Admit(sourceOf(c), key.NewID())
			checkSplitting(t, g, c)
		})
	}
}

func TestJoinedDatagramsAreSplitOverEthernet(t *testing.T) {
	testkit.RequireRoot(t)
	lan := testkit.NewSwitch(t)
	host := lan.Attach(t, "192.0.2.1/24")
	client := lan.Attach(t, "192.0.2.2/24")
	var g *Gate
	var c *net.UDPConn
	host.Do(t, func() { g = testGate(t, "192.0.2.1:4042", nil) })
	client.Do(t, func() { c = newSocket(t, g.Addr()) })
	receiveECN(t, g)
	markECN(t, c, false)
	g.Admit(sourceOf(c), key.NewID())
	checkSplitting(t, g, c)
}

func TestKnockAmongJoinedDatagrams(t *testing.T) {
	first := bytes.Repeat([]byte{1}, knockSize)
	knock := bytes.Repeat([]byte{2}, knockSize)
	second := bytes.Repeat([]byte{3}, knockSize)
	t.Run("lets the rest in", func(t *testing.T) {
		var g *Gate
		g = testGate(t, loopback4, func(b []byte, source, _ netip.AddrPort) bool {
			if b[0] == 2 {
				g.Admit(source, key.NewID())
			}
			return b[0] == 2
		})
		c := newSocket(t, g.Addr())
		sendJoined(t, c, bytes.Join([][]byte{first, knock, second}, nil), knockSize)
		ms := messages(8)
		n, err := g.ReadBatch(ms, 0)
		if n != 1 || err != nil || ms[0].Buffers[0][0] != 3 {
			t.Fatalf("got %d, %v", n, err)
		}
	})
	t.Run("shuts the rest out", func(t *testing.T) {
		var g *Gate
		g = testGate(t, loopback4, func(b []byte, source, _ netip.AddrPort) bool {
			if b[0] == 2 {
				g.Revoke(source)
			}
			return b[0] == 2
		})
		c := newSocket(t, g.Addr())
		g.Admit(sourceOf(c), key.NewID())
		sendJoined(t, c, bytes.Join([][]byte{first, knock, second}, nil), knockSize)
		ms := messages(8)
		n, err := g.ReadBatch(ms, 0)
		if n != 1 || err != nil || ms[0].Buffers[0][0] != 1 {
			t.Fatalf("got %d, %v", n, err)
		}
	})
}

func TestRevokedSourceIsShutOutOfItsJoinedDatagrams(t *testing.T) {
	g := testGate(t, loopback4, nil)
	c := newSocket(t, g.Addr())
	g.Admit(sourceOf(c), key.NewID())
	sendJoined(t, c, make([]byte, 3000), 1000)
	ms := messages(1)
	if n, err := g.ReadBatch(ms, 0); n != 1 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	g.Revoke(sourceOf(c))
	g.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := g.ReadBatch(ms, 0); n != 0 || err == nil {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestSendErrorsOfAMovingMachineAreLoss(t *testing.T) {
	testkit.RequireRoot(t)
	island := testkit.Netns(t)
	var g *Gate
	island.Do(t, func() { g = testGate(t, "0.0.0.0:0", nil) })
	far := &net.UDPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 4042}
	g.Admit(far.AddrPort(), key.NewID())
	island.Do(t, func() {
		if _, err := g.udp.WriteToUDP([]byte("x"), far); !errors.Is(err, syscall.ENETUNREACH) {
			t.Fatalf("the plain socket says %v", err)
		}
		n, oobn, err := g.WriteMsgUDP([]byte("hello"), nil, far)
		if n != 5 || oobn != 0 || err != nil {
			t.Errorf("got %d, %d, %v", n, oobn, err)
		}
	})
	if got := g.Counters().Lost; got != 1 {
		t.Errorf("lost: got %d", got)
	}
}

// Hosts are Linux machines: elsewhere a gate that listens on any address cannot tell.
func TestKnocksAreToldWhereTheyCameInAndWhereFrom(t *testing.T) {
	for address, to := range map[string]string{
		"[::]:0": "127.0.0.1", "0.0.0.0:0": "127.0.0.2", loopback4: "127.0.0.1", loopback6: "::1",
	} {
		type call struct{ source, local netip.AddrPort }
		calls := make(chan call, 1)
		g := testGate(t, address, func(_ []byte, source, local netip.AddrPort) bool {
			calls <- call{source, local}
			return true
		})
		want := netip.AddrPortFrom(netip.MustParseAddr(to), g.Addr().Port())
		c := newSocket(t, want)
		c.Write(make([]byte, knockSize))
		for len(calls) == 0 { // it returns when its time is over, not with the knock
			g.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			g.ReadBatch(messages(8), 0)
		}
		if got := <-calls; got.local != want || got.source != sourceOf(c) {
			t.Errorf("%s: got %v, want to %v from %v", address, got, want, sourceOf(c))
		}
	}
}

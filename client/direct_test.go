package client_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// exactEcho is a UDP service that a firewall lets only the host knock's own source
// reach, and that answers.
func exactEcho(t *testing.T, h *controltest.Host) netip.AddrPort {
	t.Helper()
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := l.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if from == h.Bound() {
				l.WriteToUDPAddrPort(append(buf[:n:n], " from "+from.String()...), from)
			}
		}
	}()
	return l.LocalAddr().(*net.UDPAddr).AddrPort()
}

// asked sends a question until it is answered: datagrams may be lost, and the first one
// may be faster than the opening.
func asked(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	buf := make([]byte, 65536)
	for range 200 {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(buf); err == nil {
			return string(buf[:n])
		}
	}
	t.Fatal("no answer")
	return ""
}

func TestAFlowToAnExactDirectServiceComesFromThePortThatKnocked(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	h.SetDirect(control.Access{Transport: control.TransportUDP, Binding: control.BindExact}, exactEcho(t, h))
	d := dialer(t, device, client.DialerConfig{})
	conn, err := d.DialPacket(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first := asked(t, conn, "one")
	if again := asked(t, conn, "one"); again != first {
		t.Errorf("%q, then %q", first, again)
	}
	// There is one opening: the next flow takes it over.
	next, err := d.DialPacket(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	asked(t, next, "two")
	conn.SetReadDeadline(time.Time{})
	if _, err := conn.Read(make([]byte, 100)); err == nil {
		t.Error("the first flow goes on, though nothing of it comes through any more")
	}
	if n := c.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d access knocks, want 1", n)
	}
}

func TestAConnectionToAnExactDirectServiceIsTheOnlyOneAndFromThePortThatKnocked(t *testing.T) {
	testkit.NoLeak(t)
	device, _, h := enrolled(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h.SetDirect(control.Access{Binding: control.BindExact}, l.Addr().(*net.TCPAddr).AddrPort())
	d := dialer(t, device, client.DialerConfig{})
	conn := dialService(t, d)
	testkit.Eventually(t, 10*time.Second, "the host knock from the connection's port", func() bool {
		return h.Bound() == conn.LocalAddr().(*net.TCPAddr).AddrPort()
	})
	bound := h.Bound()
	if _, err := d.Dial(t.Context(), "echo"); !errors.Is(err, client.ErrOneAtATime) {
		t.Errorf("a second connection: %v, want %v", err, client.ErrOneAtATime)
	}
	if h.Bound() != bound {
		t.Error("the second one took the opening from the first")
	}
	conn.Close()
	dialService(t, d)
}

func TestAFlowToADirectServiceFindsTheAddressThatAnswers(t *testing.T) {
	testkit.NoLeak(t)
	device, _, h := enrolled(t)
	mute, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	h.SetDirect(control.Access{Transport: control.TransportUDP}, mute.LocalAddr().(*net.UDPAddr).AddrPort(), exactEcho(t, h))
	conn, err := dialer(t, device, client.DialerConfig{}).DialPacket(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first := asked(t, conn, "one")
	if again := asked(t, conn, "one"); again != first {
		t.Errorf("%q, then %q", first, again)
	}
}

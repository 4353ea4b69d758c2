package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// newUDPEcho answers each datagram with itself.
func newUDPEcho(t testing.TB) string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadBuffer(4 << 20)
	var echoing sync.WaitGroup
	echoing.Go(func() {
		b := make([]byte, MaxPacket+1)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	})
	t.Cleanup(func() {
		c.Close()
		echoing.Wait()
	})
	return c.LocalAddr().String()
}

// newFlowHouse is a house whose service is a UDP echo.
func newFlowHouse(t testing.TB) *house {
	t.Helper()
	h := openHouse(t, loopback4)
	address := newUDPEcho(t)
	h.packets = func(ctx context.Context, _ Peer) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", address)
	}
	h.serve()
	return h
}

func openFlow(t testing.TB, c *Conn) *Flow {
	t.Helper()
	f, err := c.OpenFlow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// echoed sends a datagram until its echo comes: datagrams may be lost.
func echoed(t testing.TB, f net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, MaxPacket+1)
	for range 50 {
		if _, err := f.Write(want); err != nil {
			t.Fatalf("write %d bytes: %v", len(want), err)
		}
		if err := f.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := f.Read(got); err == nil && bytes.Equal(got[:n], want) {
			return
		}
	}
	t.Fatalf("no echo of %d bytes", len(want))
}

func TestAFlowCarriesDatagramsOfEverySize(t *testing.T) {
	testkit.NoLeak(t)
	h := newFlowHouse(t)
	conn := h.dial(h.grant())
	f := openFlow(t, conn)
	for _, size := range []int{0, 1, 1000, 1200, 1400, 1500, 9000, MaxPacket} {
		b := make([]byte, size)
		rand.Read(b)
		echoed(t, f, b)
	}
	if _, err := f.Write(make([]byte, MaxPacket+1)); !errors.Is(err, ErrPacketSize) {
		t.Errorf("a datagram that UDP does not have: %v", err)
	}
	f.Close()
	conn.Close()
	h.stop()
	h.gate.Close()
}

func TestFlowsAreKeptApart(t *testing.T) {
	h := newFlowHouse(t)
	conn := h.dial(h.grant())
	var all sync.WaitGroup
	for i := range 50 {
		f := openFlow(t, conn)
		all.Go(func() {
			for range 5 {
				echoed(t, f, bytes.Repeat([]byte{byte(i)}, 100+i))
			}
		})
	}
	all.Wait()
}

func TestTheEndOfTheSessionEndsItsFlows(t *testing.T) {
	h := newFlowHouse(t)
	s := h.grant()
	f := openFlow(t, h.dial(s))
	echoed(t, f, []byte("alive"))
	h.server.CloseSession(s.id, ReasonRevoked, "revoked")
	if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 10)); !errors.Is(err, ErrRevoked) {
		t.Errorf("the flow ended with %v", err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("a flow that is over takes datagrams")
	}
}

func TestDatagramsOfNoFlowAreCountedAndDropped(t *testing.T) {
	h := newFlowHouse(t)
	conn := h.dial(h.grant())
	f := openFlow(t, conn)
	for _, odd := range [][]byte{{}, {0xff}, {0x3f, 1, 2}, {0x40}} {
		if err := conn.quic.SendDatagram(odd); err != nil {
			t.Fatal(err)
		}
	}
	echoed(t, f, []byte("still here"))
}

func TestAFloodedFlowLosesDatagramsAndBlocksNobody(t *testing.T) {
	h := newFlowHouse(t)
	conn := h.dial(h.grant())
	slow, other := openFlow(t, conn), openFlow(t, conn)
	for range 4 * flowQueue { // nobody reads the echoes
		if _, err := slow.Write(make([]byte, 9000)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 10*time.Second, "echoes are lost", func() bool { return conn.flows.lost.Load() > 0 })
	echoed(t, other, []byte("not blocked"))
	if n := slow.queued.Load(); n > flowBytes {
		t.Errorf("%d bytes wait for the reader", n)
	}
}

func TestAHostWithoutUDPServicesSaysSo(t *testing.T) {
	h := newHouse(t, loopback4)
	_, err := h.dial(h.grant()).OpenFlow(t.Context())
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != StatusDenied {
		t.Errorf("got %v", err)
	}
}

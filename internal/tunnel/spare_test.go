package tunnel

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// quietHost is the other end of a client's Gate: it writes down what comes.
type quietHost struct {
	conn *net.UDPConn
	gate *Gate
	peer *peer
}

func newQuietHost(t *testing.T) quietHost {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	g, err := Listen(netip.MustParseAddrPort(loopback4), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	g.watch = newWatch(func() []byte { return []byte("knock") })
	g.aside = newAside(g)
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	g.Admit(at, key.NewID())
	return quietHost{conn, g, g.admitted(at)}
}

// dense makes it so that datagrams have come without a pause until now.
func (h quietHost) dense() {
	now := h.gate.now()
	h.gate.watch.since.Store(now - 2*int64(steady))
	h.gate.watch.rtt.Store(int64(farAway))
	h.peer.heard.Store(now)
}

func (h quietHost) send(t *testing.T, text string) {
	t.Helper()
	if _, err := h.gate.WriteTo([]byte(text), h.peer.addr); err != nil {
		t.Fatal(err)
	}
}

// wants reads as many datagrams as are wanted.
func (h quietHost) wants(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	_ = h.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for b := make([]byte, 2048); len(got) < len(want); {
		n, err := h.conn.Read(b)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, string(b[:n]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A client whose path broke in the middle of a download has sent acknowledgements only,
// which have all come by the old path: QUIC at the host follows nobody for those.
func TestBehindAKnockGoesADatagramThatTheHostHasNotSeen(t *testing.T) {
	h := newQuietHost(t)
	h.dense()
	long := string(make([]byte, spareSize+1))
	h.send(t, "ack 1")
	h.send(t, long)
	h.wants(t, long)
	h.dense()
	h.send(t, "ack 2")
	h.wants(t, "ack 1") // one is held back, and no more
	h.gate.watch.knockAt(h.gate, h.peer.addr)
	h.gate.watch.useSpare(h.gate)
	h.wants(t, "knock", "ack 2")
	h.gate.watch.repeat(h.gate, h.peer) // the door may have opened too late
	h.wants(t, "ack 2")
}

// Near by, a stream may be dense and yet of questions and answers.
func TestNothingIsHeldBackNearBy(t *testing.T) {
	h := newQuietHost(t)
	h.dense()
	h.gate.watch.rtt.Store(int64(farAway) - 1)
	h.send(t, "question")
	h.wants(t, "question")
}

func TestNothingStaysHeldBack(t *testing.T) {
	h := newQuietHost(t)
	h.dense()
	h.send(t, "ack 1")
	h.peer.heard.Store(h.gate.now() - 2*int64(dense)) // the stream thins out
	h.send(t, "ack 2")
	h.wants(t, "ack 1", "ack 2")
	h.dense()
	h.send(t, "ack 3")
	h.gate.watch.release(h.gate, time.Hour)
	h.gate.watch.release(h.gate, 0)
	h.wants(t, "ack 3")
	h.dense()
	h.send(t, "farewell")
	h.gate.Close()
	h.wants(t, "farewell")
}

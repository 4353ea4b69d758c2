package tunnel

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// challengeSize is the length of a datagram that asks whether somebody is reachable
	// at a new address: at least this (RFC 9000, section 8.2.1), and QUIC sends no more.
	challengeSize = 1200
	// challenges are how many of them may follow one knock.
	challenges = 2
)

// aside is a second way for QUIC to the client's socket. What the host asks before
// it follows a client to a new address comes to QUIC this way, and the answer goes
// this way too: QUIC answers it at once. On the way that everything else takes, the
// answer waits for room in the congestion window, which datagrams that the old path
// has lost fill until QUIC's next probe.
//
// For QUIC it is the packet conn of another path. QUIC never sends anything else there.
type aside struct {
	gate      *Gate
	transport *quic.Transport
	came      chan challenge
	known     atomic.Bool  // QUIC takes what comes this way for its connection's
	expected  atomic.Int32 // how many challenges may come
	opened    context.CancelFunc
	closing   sync.Once
	closed    chan struct{}
}

// challenge is a datagram of the host's that may be one.
type challenge struct {
	b    []byte
	from net.Addr
}

func newAside(g *Gate) *aside {
	a := &aside{gate: g, came: make(chan challenge, 4), closed: make(chan struct{})}
	a.transport = &quic.Transport{Conn: a}
	return a
}

// open tells QUIC of the path. QUIC knows a path once it has sent a challenge there
// itself, which the host acknowledges, but answers on new paths only.
func (a *aside) open(conn *quic.Conn) {
	path, err := conn.AddPath(a.transport)
	if err != nil {
		return // answers take the common way
	}
	ctx, cancel := context.WithCancel(conn.Context())
	defer cancel()
	a.opened = cancel
	_ = path.Probe(ctx)
}

// expect is called ahead of a knock: a challenge may follow. What has the size of
// one at other times goes the common way, in order and with its congestion marks.
func (a *aside) expect() {
	if a.known.Load() {
		a.expected.Store(challenges)
	}
}

// take takes over a datagram that came, if it is for this way. It is called by one at
// a time.
func (a *aside) take(datagram []byte, from net.Addr) bool {
	if len(datagram) != challengeSize || a.expected.Load() == 0 {
		return false
	}
	a.expected.Add(-1)
	select {
	case a.came <- challenge{append([]byte(nil), datagram...), from}:
		return true
	default:
		return false
	}
}

// close ends the path, after the connection.
func (a *aside) close() error { return a.transport.Close() }

// ReadFrom implements [net.PacketConn].
func (a *aside) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case c := <-a.came:
		return copy(b, c.b), c.from, nil
	case <-a.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements [net.PacketConn].
func (a *aside) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := a.gate.WriteTo(b, to)
	if a.known.CompareAndSwap(false, true) {
		a.opened()
	}
	return n, err
}

// LocalAddr implements [net.PacketConn].
func (a *aside) LocalAddr() net.Addr { return a.gate.LocalAddr() }

// Close implements [net.PacketConn]. The socket is the Gate's.
func (a *aside) Close() error {
	a.closing.Do(func() { close(a.closed) })
	return nil
}

// SetReadDeadline implements [net.PacketConn]: QUIC ends its reading with it.
func (a *aside) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		return a.Close()
	}
	return nil
}

// SetDeadline implements [net.PacketConn].
func (a *aside) SetDeadline(t time.Time) error { return a.SetReadDeadline(t) }

// SetWriteDeadline implements [net.PacketConn].
func (a *aside) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer has nothing to do: the socket has its buffers.
func (a *aside) SetReadBuffer(int) error { return nil }

// SetWriteBuffer has nothing to do either.
func (a *aside) SetWriteBuffer(int) error { return nil }

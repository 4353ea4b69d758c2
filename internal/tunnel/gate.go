package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// KnockFunc looks at a datagram of [spa.Size] bytes that came from source to
// local, and reports whether it was a host knock. It admits the source itself,
// with [Gate.Admit], before it returns: the next datagram may be QUIC's first
// packet. The datagram is valid only during the call. It is called on the
// socket's reader and must be cheap for what is no knock. The address of local
// is unspecified where the system does not tell it.
type KnockFunc func(datagram []byte, source, local netip.AddrPort) (knock bool)

// A revoked source is still told why, and nothing else.
const (
	farewellSize  = 256 // bytes of the largest datagram that still goes out
	farewellCount = 3
	farewellTime  = time.Second
	maxFarewells  = 1024
)

// Gate is a UDP socket that QUIC reads and writes through. Only datagrams of
// admitted sources come in, only datagrams to them go out; anything else is
// dropped without an answer. Sources are admitted explicitly and never forgotten
// until revoked. An IPv4 address is the same in its own and in its mapped form, an
// IPv6 address with and without a zone.
//
// A Gate is the Conn of a [quic.Transport] and keeps that transport's segmentation
// offload and congestion marks; on Linux it also takes several datagrams of a
// source in one read (UDP_GRO). Errors of sending that a moving machine meets (no
// route, no address, interface down, a local firewall) count as loss: they would
// end a QUIC connection that the next network can carry on.
//
// All methods but those that read may be called concurrently.
type Gate struct {
	udp    *net.UDPConn
	local  netip.AddrPort
	knocks KnockFunc // nil: none are taken
	start  time.Time
	reader reader
	watch  *watch // of a client's path; nil on servers
	aside  *aside // of a client; nil on servers
	counts counters

	mu        sync.RWMutex // guards what follows
	peers     map[netip.AddrPort]*peer
	farewells []farewell // oldest first
}

// peer is one admitted source.
type peer struct {
	id   key.ID
	addr *net.UDPAddr // handed to QUIC, never changed

	heard   atomic.Int64 // when the last datagram came, on the Gate's clock; 0: none yet
	revoked atomic.Bool
	said    atomic.Int32 // datagrams sent since it was revoked
}

type farewell struct {
	source netip.AddrPort
	peer   *peer
	at     time.Time
}

type counters struct {
	strangers, knocks, lost, unsent atomic.Uint64
}

// Counters are what a [Gate] has seen since it was opened.
type Counters struct {
	Strangers uint64 // datagrams dropped because nobody had admitted their source
	Knocks    uint64 // datagrams that were knocks
	Lost      uint64 // datagrams, or batches of them, that could not be sent
	Unsent    uint64 // datagrams, or batches of them, held back: not to an admitted source
}

// Listen opens a Gate on addr. The unspecified IPv6 address takes both families, or
// the one that the machine has.
func Listen(addr netip.AddrPort, knocks KnockFunc) (*Gate, error) {
	udp, err := net.ListenUDP(dialect(addr))
	if err != nil {
		return nil, fmt.Errorf("open tunnel socket: %w", err)
	}
	g := &Gate{
		udp: udp, local: plain(udp.LocalAddr().(*net.UDPAddr).AddrPort()), knocks: knocks,
		start: time.Now(), peers: make(map[netip.AddrPort]*peer),
	}
	if err := prepare(udp, g.local.Addr().IsUnspecified()); err != nil {
		udp.Close()
		return nil, fmt.Errorf("prepare tunnel socket: %w", err)
	}
	return g, nil
}

// dialect says it in package net's words: only no address at all means "both families,
// or the one that there is". A kernel may be without IPv6 (ipv6.disable=1).
func dialect(addr netip.AddrPort) (network string, local *net.UDPAddr) {
	switch {
	case addr.Addr() == netip.IPv6Unspecified():
		return "udp", &net.UDPAddr{Port: int(addr.Port())}
	case addr.Addr().Is4():
		return "udp4", net.UDPAddrFromAddrPort(addr)
	}
	return "udp", net.UDPAddrFromAddrPort(addr)
}

// Admit lets source in, for the session, identity or whatever id stands for. A
// source that is in already gets the new id.
func (g *Gate) Admit(source netip.AddrPort, id key.ID) {
	source = plain(source)
	p := &peer{id: id, addr: net.UDPAddrFromAddrPort(source)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if old := g.peers[source]; old != nil {
		p.heard.Store(old.heard.Load())
	}
	g.peers[source] = p
}

// Revoke shuts source out. From when it returns nothing comes in from there any
// more. What goes out within the next second is a few small datagrams at most:
// QUIC's word that the connection is closed, and why.
func (g *Gate) Revoke(source netip.AddrPort) {
	source = plain(source)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.forgetLocked(now)
	p := g.peers[source]
	if p == nil || !p.revoked.CompareAndSwap(false, true) {
		return
	}
	g.farewells = append(g.farewells, farewell{source, p, now})
	g.forgetLocked(now)
}

// forgetLocked drops the revoked sources whose time is up, or that are too many.
func (g *Gate) forgetLocked(now time.Time) {
	n := 0
	for _, f := range g.farewells {
		if now.Sub(f.at) < farewellTime && len(g.farewells)-n <= maxFarewells {
			break
		}
		if g.peers[f.source] == f.peer { // not admitted anew
			delete(g.peers, f.source)
		}
		n++
	}
	g.farewells = append(g.farewells[:0], g.farewells[n:]...)
}

// Session returns the id that source was admitted for.
func (g *Gate) Session(source netip.AddrPort) (id key.ID, ok bool) {
	if p := g.admitted(plain(source)); p != nil {
		return p.id, true
	}
	return key.ID{}, false
}

// admitted returns the peer at source, nil when there is none or it was revoked.
func (g *Gate) admitted(source netip.AddrPort) *peer {
	g.mu.RLock()
	p := g.peers[source]
	g.mu.RUnlock()
	if p == nil || p.revoked.Load() {
		return nil
	}
	return p
}

// Counters returns the counts so far.
func (g *Gate) Counters() Counters {
	return Counters{
		Strangers: g.counts.strangers.Load(), Knocks: g.counts.knocks.Load(),
		Lost: g.counts.lost.Load(), Unsent: g.counts.unsent.Load(),
	}
}

// Addr returns the address the Gate is bound to.
func (g *Gate) Addr() netip.AddrPort { return g.local }

// LocalAddr implements [net.PacketConn].
func (g *Gate) LocalAddr() net.Addr { return g.udp.LocalAddr() }

// Close closes the socket. It may be called more than once.
func (g *Gate) Close() error {
	if g.watch != nil {
		g.watch.release(g, 0) // QUIC's farewell is small, too
	}
	return g.udp.Close()
}

// SetDeadline implements [net.PacketConn].
func (g *Gate) SetDeadline(t time.Time) error { return g.udp.SetDeadline(t) }

// SetReadDeadline implements [net.PacketConn].
func (g *Gate) SetReadDeadline(t time.Time) error { return g.udp.SetReadDeadline(t) }

// SetWriteDeadline implements [net.PacketConn].
func (g *Gate) SetWriteDeadline(t time.Time) error { return g.udp.SetWriteDeadline(t) }

// SetReadBuffer sets the size of the socket's receive buffer, in bytes.
func (g *Gate) SetReadBuffer(bytes int) error { return g.udp.SetReadBuffer(bytes) }

// SetWriteBuffer sets the size of the socket's send buffer, in bytes.
func (g *Gate) SetWriteBuffer(bytes int) error { return g.udp.SetWriteBuffer(bytes) }

// SyscallConn gives QUIC the socket to set its options on. Reading or writing
// there would go past the Gate.
func (g *Gate) SyscallConn() (syscall.RawConn, error) { return g.udp.SyscallConn() }

// now is the time on the Gate's own clock, never 0.
func (g *Gate) now() int64 { return int64(time.Since(g.start)) + 1 }

// plain gives each source one form: IPv4 as IPv4, and no zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// knockSize is the length of the datagrams that may be knocks.
const knockSize = spa.Size

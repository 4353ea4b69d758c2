package tunnel

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/postern-sdp/postern/internal/lossy"
)

// WriteTo implements [net.PacketConn].
func (g *Gate) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, syscall.EAFNOSUPPORT
	}
	n, _, err := g.WriteMsgUDP(b, nil, to)
	return n, err
}

// WriteMsgUDP sends b, one datagram or several as oob says, to an admitted
// source. What may not or cannot be sent is lost without an error.
func (g *Gate) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	p := g.sendable(plain(addr.AddrPort()), len(b))
	if p == nil {
		g.counts.unsent.Add(1)
		return len(b), len(oob), nil
	}
	if g.watch != nil {
		g.watch.sending(g, p, b, oob)
		if g.watch.exchange(g, p, b, oob) {
			return len(b), len(oob), nil
		}
	}
	n, oobn, err = g.udp.WriteMsgUDP(b, oob, addr)
	if err == nil || !lossy.Is(err) {
		return n, oobn, err
	}
	g.counts.lost.Add(1)
	if g.watch != nil {
		g.watch.failed.Store(g.now())
	}
	return len(b), len(oob), nil
}

// sendable returns the peer at to when size bytes may go there.
func (g *Gate) sendable(to netip.AddrPort, size int) *peer {
	g.mu.RLock()
	p := g.peers[to]
	g.mu.RUnlock()
	if p == nil || !p.revoked.Load() {
		return p
	}
	if size > farewellSize || p.said.Add(1) > farewellCount {
		return nil
	}
	return p
}

// send sends one datagram past the filter, for knocks. It reports no error: a
// knock that is lost is sent again.
func (g *Gate) send(b []byte, to netip.AddrPort) {
	if _, err := g.udp.WriteToUDPAddrPort(b, to); err != nil {
		g.counts.lost.Add(1)
	}
}

// resend sends a datagram of QUIC's as it was.
func (g *Gate) resend(d datagram, to *net.UDPAddr) {
	if _, _, err := g.udp.WriteMsgUDP(d.b, d.oob, to); err != nil {
		g.counts.lost.Add(1)
	}
}

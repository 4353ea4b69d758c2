package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
)

const (
	readSize   = 1 << 16 // the most that the kernel joins of one source's datagrams
	readOOB    = 256     // bytes; destination, congestion marks and segment size take 144
	readErrors = 100     // in a row, after which the socket counts as broken
)

// reader holds what the last read brought and QUIC has not taken yet: datagrams
// of one source, of equal size but for the last, which may be shorter.
type reader struct {
	buf    []byte
	oobBuf []byte

	rest    []byte // datagrams not looked at
	size    int    // of each, but for the last
	oob     []byte // control messages that hold for all of them
	source  netip.AddrPort
	peer    *peer        // nil: a stranger's
	addr    *net.UDPAddr // the source as QUIC is told it; nil for a stranger's
	localIP netip.Addr
	handed  uint64 // datagrams to QUIC in the present share
	took    uint64 // by QUIC before it
	backlog backlog
}

// ReadBatch fills ms with datagrams of admitted sources; QUIC uses it instead of
// reading the socket itself. It blocks until there is at least one: QUIC would
// take a batch of none for one of stale datagrams. Each message's first buffer
// and OOB are copied to.
func (g *Gate) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	for {
		n := 0
		for n < len(ms) {
			datagram := g.next()
			if datagram == nil {
				break
			}
			m := &ms[n]
			m.N = copy(m.Buffers[0], datagram)
			m.NN = copy(m.OOB, g.reader.oob)
			m.Addr = g.reader.addr
			m.Flags = 0
			n++
		}
		if n > 0 {
			g.catchUp(n)
			return n, nil
		}
		if g.resume() {
			continue
		}
		if err := g.read(); err != nil {
			return 0, err
		}
	}
}

// ReadFrom implements [net.PacketConn], for systems where QUIC reads that way.
func (g *Gate) ReadFrom(b []byte) (int, net.Addr, error) {
	n, _, _, addr, err := g.ReadMsgUDP(b, nil)
	if err != nil {
		return 0, nil, err
	}
	return n, addr, nil
}

// ReadMsgUDP reads one datagram of an admitted source. QUIC asks for the method;
// it reads with ReadBatch.
func (g *Gate) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	for {
		if datagram := g.next(); datagram != nil {
			g.catchUp(1)
			return copy(b, datagram), copy(oob, g.reader.oob), 0, g.reader.addr, nil
		}
		if g.resume() {
			continue
		}
		if err := g.read(); err != nil {
			return 0, 0, 0, nil, err
		}
	}
}

// next returns the next datagram that QUIC may see of those that were read, nil
// when there is none.
func (g *Gate) next() []byte {
	r := &g.reader
	for len(r.rest) > 0 {
		datagram := r.rest[:min(r.size, len(r.rest))]
		r.rest = r.rest[len(datagram):]
		if len(datagram) == knockSize && g.knocks != nil {
			local := netip.AddrPortFrom(r.localIP, g.local.Port())
			if g.knocks(datagram, plain(r.source), local) {
				g.counts.knocks.Add(1)
				g.look()
				continue
			}
		}
		// Revoked since the last datagram of this batch: nothing more gets through.
		if r.peer == nil || r.peer.revoked.Load() {
			g.counts.strangers.Add(1)
			continue
		}
		if g.aside != nil && g.aside.take(datagram, r.addr) {
			continue
		}
		return datagram
	}
	return nil
}

// read blocks until the socket has something. Errors that one datagram or a
// moving machine causes are read over.
func (g *Gate) read() error {
	r := &g.reader
	if r.buf == nil {
		r.buf, r.oobBuf = make([]byte, readSize), make([]byte, readOOB)
	}
	for failed := 0; ; failed++ {
		n, oobn, _, source, err := g.udp.ReadMsgUDPAddrPort(r.buf, r.oobBuf)
		if err != nil {
			if failed < readErrors && !errors.Is(err, net.ErrClosed) &&
				!errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return err
		}
		if n == 0 {
			failed = -1 // an empty datagram is none of QUIC's
			continue
		}
		r.rest, r.source = r.buf[:n], source
		r.size, r.localIP, r.oob = readControl(r.oobBuf[:oobn])
		if r.size <= 0 {
			r.size = n
		}
		if !r.localIP.IsValid() {
			r.localIP = g.local.Addr()
		}
		if g.postpone() {
			failed = -1
			continue
		}
		g.look()
		return nil
	}
}

// look finds out whose the datagrams at hand are, and takes note that they came.
func (g *Gate) look() {
	g.whose()
	if p := g.reader.peer; p != nil {
		now := g.now()
		before := p.heard.Swap(now)
		if g.watch != nil {
			g.watch.hearing(now, before)
		}
	}
}

// whose finds out whose the datagrams at hand are.
func (g *Gate) whose() {
	r := &g.reader
	r.peer = g.admitted(plain(r.source)) // PROTOCOL 5.1
	if r.peer == nil {
		r.addr = nil
		return
	}
	r.addr = r.peer.addr
	if r.source.Addr().Zone() != "" {
		r.addr = net.UDPAddrFromAddrPort(r.source) // the answer needs the zone
	}
}

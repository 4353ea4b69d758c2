package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// When a path counts as broken, and what is done about it.
const (
	quiet       = 250 * time.Millisecond // after which a datagram sent is a question
	patience    = time.Second            // with a question before a new knock
	knockAgain  = 400 * time.Millisecond // between knocks on a broken path
	flightLimit = 4                      // datagrams of a first flight; QUIC sends two
)

// watch knocks for a client whenever nobody answers any more: the host may see it
// at an address that it has not let in. Knocks go out right ahead of QUIC's own
// probes, which come at growing intervals for as long as the connection lives, so
// there is nothing to wait for and nothing to wake up: the first probe that gets
// through finds the door open.
//
// A question is a datagram sent when the other end has been silent for a while.
// Acknowledgements follow what they acknowledge at once and are none.
type watch struct {
	knock func() []byte // a fresh host knock; nil: none can be made

	failed atomic.Int64  // when sending last failed, on the Gate's clock; 0: never
	count  atomic.Uint64 // knocks sent

	mu      sync.Mutex // guards what follows
	asked   int64      // when the oldest question without an answer was sent
	knocked int64      // when the last knock was sent
	flights map[netip.AddrPort][]datagram
}

// datagram is one that QUIC has sent, kept to be sent again.
type datagram struct{ b, oob []byte }

func newWatch(knock func() []byte) *watch {
	return &watch{knock: knock, flights: make(map[netip.AddrPort][]datagram)}
}

// sending is called before QUIC sends b to p.
func (w *watch) sending(g *Gate, p *peer, b, oob []byte) {
	heard := p.heard.Load()
	if heard == 0 {
		w.keep(p, b, oob)
		return
	}
	now, failed := g.now(), w.failed.Load()
	if failed < heard && now-heard < int64(quiet) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked <= heard {
		w.asked = now
	}
	broken := failed >= heard || now-w.asked >= int64(patience)
	if broken && now-w.knocked >= int64(knockAgain) {
		w.knockLocked(g, p.addr)
	}
}

func (w *watch) knockLocked(g *Gate, to *net.UDPAddr) {
	w.knocked = g.now()
	if k := w.knock(); len(k) > 0 {
		w.count.Add(1)
		g.send(k, to.AddrPort())
	}
}

// keep keeps the first flight to p.
func (w *watch) keep(p *peer, b, oob []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to := p.addr.AddrPort()
	if w.flights == nil || len(w.flights[to]) >= flightLimit {
		return
	}
	w.flights[to] = append(w.flights[to], datagram{
		b: append([]byte(nil), b...), oob: append([]byte(nil), oob...),
	})
}

// call knocks at an address that has never answered, and sends the first flight
// once more: the host may have opened its door to the knock only after it had
// dropped what came right behind it. QUIC itself would wait for 200 ms and more.
func (w *watch) call(g *Gate, to *net.UDPAddr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.knockLocked(g, to)
	for _, d := range w.flights[to.AddrPort()] {
		if _, _, err := g.udp.WriteMsgUDP(d.b, d.oob, to); err != nil {
			g.counts.lost.Add(1)
		}
	}
}

// connected ends the keeping of first flights.
func (w *watch) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flights = nil
}

package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// When a path counts as broken, and what is done about it.
const (
	// quiet is the silence after which a datagram sent is a question.
	quiet = 60 * time.Millisecond
	// steady is for how long datagrams must have come without a pause for a silence to
	// say something by itself.
	steady = 250 * time.Millisecond
	pause  = 150 * time.Millisecond
	// leastHush and mostHush bound the silence after which a steady stream counts as
	// broken; between them it depends on how far apart its datagrams were.
	leastHush = 25 * time.Millisecond
	mostHush  = 2 * pause
	// curious is the silence after which whoever was heard not long ago is asked.
	curious = 250 * time.Millisecond
	// talk is how many reads it takes to be worth a question: what comes in answer
	// to one is less.
	talk = 4
	// leastPatience and mostPatience bound the wait for an answer; between them it
	// depends on the path.
	leastPatience = 120 * time.Millisecond
	mostPatience  = time.Second
	// knockAgain and knockRarely are between knocks on a broken path, at first and
	// in the end.
	knockAgain  = 200 * time.Millisecond
	knockRarely = 2 * time.Second
	// repeatAfter is after which silence what went behind a knock goes once more, and
	// later once again.
	repeatAfter = 25 * time.Millisecond

	flightLimit = 4    // datagrams of a first flight; QUIC sends two
	lastCount   = 4    // datagrams that are kept to be sent again
	lastLimit   = 2048 // bytes of each
)

// watch knocks for a client whenever nobody answers any more: the host may see it
// at an address that it has not let in. It finds out in two ways.
//
// A question is a datagram sent when the other end has been silent for a while; the
// answer is due after about a round trip. Acknowledgements follow what they
// acknowledge at once and are none. And a stream of datagrams that was steady and
// stops is suspicious by itself: who only listens asks nothing. When whoever listened
// hears nothing more for other reasons, one question finds that out.
//
// On a broken path, each knock is followed by the last datagrams that QUIC sent,
// once more, and by a new one: QUIC itself would wait longer and longer. They bring
// the host the last acknowledgement too: without it, QUIC there would begin its new
// path with all that had come already.
type watch struct {
	knock func() []byte // a fresh host knock; nil: none can be made

	failed  atomic.Int64  // when sending last failed, on the Gate's clock; 0: never
	count   atomic.Uint64 // knocks sent
	reads   atomic.Uint64 // that brought something
	since   atomic.Int64  // from when on there was no pause
	gap     atomic.Int64  // the longest silence of late within a steady stream
	rtt     atomic.Int64  // of the path, smoothed
	asked   atomic.Int64  // when the oldest question without an answer was sent
	parked  atomic.Bool   // the pulse has nothing to wait for
	unpark  chan struct{}
	knocked atomic.Int64 // when the last knock was sent
	due     atomic.Int64 // when the pulse looks next; 0: when something happens
	awake   atomic.Int64 // when this program was found to have been stopped; 0: long ago

	conn atomic.Pointer[quic.Conn] // once there is one

	mu      sync.Mutex // guards what follows
	flights map[netip.AddrPort][]datagram
	lasts   [lastCount]last // that QUIC sent, a ring
	sent    int             // how many it has sent
	spare   spare
}

// last is a datagram that QUIC sent lately.
type last struct {
	b  []byte
	at int64 // when, on the Gate's clock
}

// datagram is one that QUIC has sent, kept to be sent again.
type datagram struct{ b, oob []byte }

func newWatch(knock func() []byte) *watch {
	return &watch{
		knock: knock, flights: make(map[netip.AddrPort][]datagram), unpark: make(chan struct{}, 1),
	}
}

// hearing is called, by one at a time, when something came, at now; before that, it
// was at before.
func (w *watch) hearing(now, before int64) {
	gap := now - before
	// What only came because of a knock says nothing of how the stream is.
	knocked := w.knocked.Load()
	if gap > int64(pause) || knocked > before && now-knocked >= w.rtt.Load()*3/4 {
		w.since.Store(now)
		gap = 0
	}
	last := w.gap.Load()
	w.gap.Store(max(gap, last-last/64))
	w.reads.Add(1)
	w.wake()
}

func (w *watch) wake() {
	if w.parked.Load() && w.parked.CompareAndSwap(true, false) {
		w.unpark <- struct{}{} // has room: there is one for each time it parks
	}
}

// sending is called before QUIC sends b to p.
func (w *watch) sending(g *Gate, p *peer, b, oob []byte) {
	heard := p.heard.Load()
	if heard == 0 {
		w.keep(p, b, oob)
		return
	}
	now, failed := g.now(), w.failed.Load()
	if w.woke(now) { // maybe elsewhere: the knock goes ahead of what would be in vain
		g.aside.expect()
		w.knockAt(g, p.addr)
	}
	w.remember(lastSegment(b, oob), now)
	if failed < heard && now-heard < int64(quiet) {
		return
	}
	if asked := w.asked.Load(); asked <= heard {
		w.asked.CompareAndSwap(asked, now)
	}
	w.wake()
}

// knockAt sends a fresh knock.
func (w *watch) knockAt(g *Gate, to *net.UDPAddr) {
	w.knocked.Store(g.now())
	if k := w.knock(); len(k) > 0 {
		w.count.Add(1)
		g.send(k, to.AddrPort())
	}
}

// remember keeps a datagram that is sent at now.
func (w *watch) remember(b []byte, now int64) {
	if len(b) > lastLimit {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rememberLocked(b, now)
}

func (w *watch) rememberLocked(b []byte, now int64) {
	l := &w.lasts[w.sent%lastCount]
	l.b, l.at = append(l.b[:0], b...), now
	w.sent++
}

// repeat sends the last datagrams of the present silence once more. The other end
// takes them for what they are: such that came late, or twice.
func (w *watch) repeat(g *Gate, p *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range lastCount {
		l := &w.lasts[(w.sent+i)%lastCount] // the oldest one first
		if len(l.b) > 0 && l.at > p.heard.Load() {
			g.resend(datagram{b: l.b}, p.addr)
		}
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
	w.knockAt(g, to)
	for _, d := range w.flights[to.AddrPort()] {
		g.resend(d, to)
	}
}

// connected ends the keeping of first flights.
func (w *watch) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flights = nil
}

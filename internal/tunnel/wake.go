package tunnel

import (
	"net/netip"
	"time"
)

const (
	// oversleep is by how much a look at the path must be late to say that this program
	// was stopped meanwhile.
	oversleep = time.Second
	// catchingUp is for how long after that QUIC is handed what came meanwhile in shares:
	// it keeps 256 datagrams of a connection, and drops what comes faster than it works.
	// Each waits for QUIC to have worked off the one before, patient milliseconds at most.
	catchingUp = 300 * time.Millisecond
	share      = 64
	patient    = 10

	// leastStale and mostStale bound for how long after waking datagrams count as having
	// waited; between them it is half a round trip.
	leastStale = 5 * time.Millisecond
	mostStale  = 50 * time.Millisecond
	// smallSize bounds what counts as an acknowledgement among them.
	smallSize = 48
	// mostPostponed is for how long they wait on, and maxBacklog how many bytes of them.
	mostPostponed = 500 * time.Millisecond
	maxBacklog    = 1 << 20
)

// backlog is the small datagrams that waited in the socket while this program was
// stopped: acknowledgements, nearly all. QUIC gets them behind the first answer to what
// was sent since. It would take them for those of a path with seconds of delay, and send
// slowly for as long; one that comes behind a newer one tells it no delay.
type backlog struct {
	reads    []postponed
	bytes    int
	latest   time.Duration // QUIC's last round trip when this began
	since    int64
	answers  bool // something has come since
	released bool
}

// postponed is one read.
type postponed struct {
	b, oob  []byte
	size    int
	source  netip.AddrPort
	localIP netip.Addr
}

// postpone puts away what is small of the datagrams at hand, if they waited while this
// program was stopped, and reports whether nothing is left.
func (g *Gate) postpone() bool {
	w, r := g.watch, &g.reader
	if w == nil {
		return false
	}
	now := g.now()
	w.woke(now)
	awake, l := w.awake.Load(), &r.backlog
	conn := w.conn.Load()
	stale := min(max(w.rtt.Load()/2, int64(leastStale)), int64(mostStale))
	if awake == 0 || now-awake > stale || conn == nil {
		l.answers = true
		return false
	}
	l.answers = false
	small := r.rest
	if r.size > smallSize {
		small = r.rest[len(r.rest)/r.size*r.size:] // the last may be shorter than the others
	}
	if len(small) == 0 || r.size > smallSize && len(small) > smallSize || l.bytes+len(small) > maxBacklog {
		return false
	}
	if len(l.reads) == 0 {
		l.latest, l.since = conn.ConnectionStats().LatestRTT, now
	}
	l.reads = append(l.reads, postponed{
		b: append([]byte(nil), small...), oob: append([]byte(nil), r.oob...),
		size: min(r.size, len(small)), source: r.source, localIP: r.localIP,
	})
	l.bytes += len(small)
	r.rest = r.rest[:len(r.rest)-len(small)]
	return len(r.rest) == 0
}

// resume takes up the next of what was put away, if it is time for it: QUIC has measured
// the path anew, or there is no sign of that.
func (g *Gate) resume() bool {
	r := &g.reader
	l := &r.backlog
	if len(l.reads) == 0 || !l.answers {
		return false
	}
	conn := g.watch.conn.Load()
	for try := 0; !l.released; try++ { // what came is on its way into QUIC
		l.released = conn.ConnectionStats().LatestRTT != l.latest || g.now()-l.since > int64(mostPostponed)
		if try == 5 {
			return false
		}
		if !l.released {
			time.Sleep(time.Millisecond)
		}
	}
	next := l.reads[0]
	l.reads = l.reads[1:]
	r.rest, r.oob, r.size, r.source, r.localIP = next.b, next.oob, next.size, next.source, next.localIP
	g.whose()
	if len(l.reads) == 0 {
		*l = backlog{}
	}
	return true
}

// woke reports whether this program was stopped until now, once each time. Whoever
// comes first does so: a look that is due, QUIC's first datagram, or what came.
func (w *watch) woke(now int64) bool {
	due := w.due.Load()
	if due == 0 || now < due+int64(oversleep) || !w.due.CompareAndSwap(due, 0) {
		return false
	}
	w.awake.Store(now)
	return true
}

// catchUp lets QUIC work off what came while this program was stopped, before n
// datagrams more are handed to it.
func (g *Gate) catchUp(n int) {
	if g.watch == nil {
		return
	}
	awake := g.watch.awake.Load()
	if awake == 0 {
		return
	}
	if g.now()-awake > int64(catchingUp) {
		g.watch.awake.CompareAndSwap(awake, 0)
		return
	}
	conn := g.watch.conn.Load()
	r := &g.reader
	if r.handed += uint64(n); r.handed <= share || conn == nil {
		return
	}
	took := conn.ConnectionStats().PacketsReceived
	for try := 0; took-r.took < r.handed-uint64(n) && try < patient; try++ {
		time.Sleep(time.Millisecond)
		took = conn.ConnectionStats().PacketsReceived
	}
	r.handed, r.took = uint64(n), took
}

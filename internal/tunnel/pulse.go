package tunnel

import (
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// lostAfter is for how long, awake, nobody may answer before a connection is given up.
const lostAfter = DefaultIdle

// pulse feels whether a client's path is alive, and acts when it is not. It sleeps
// while there is nothing to find out: an idle tunnel costs no wake-ups.
type pulse struct {
	watch *watch
	gate  *Gate
	conn  *quic.Conn
	peer  func() *peer
	lost  time.Duration // lostAfter, or what a test says

	asking  atomic.Bool   // a question of ours is on its way into QUIC
	changed chan struct{} // the network is said to have changed; holds one

	reads   uint64 // as they were at the last look
	asked   int64  // the same
	settled uint64 // reads up to which nothing needs to be asked
	wait    time.Duration
	next    int64         // when to knock again, on the Gate's clock
	again   int64         // when to send the last datagrams again; 0: not
	silent  time.Duration // how long the present question has been open while awake
}

// run feels the pulse until the connection ends.
func (p *pulse) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		planned := p.repeatAgain(p.look())
		if planned < 0 {
			return
		}
		begin := time.Now()
		if planned == 0 {
			if !p.park() {
				return
			}
			continue
		}
		timer.Reset(planned)
		p.watch.due.Store(p.gate.now() + int64(planned))
		select {
		case <-timer.C:
		case <-p.changed:
			p.act()
		case <-p.conn.Context().Done():
			return
		}
		passed := time.Since(begin)
		if p.watch.woke(p.gate.now()) || passed > planned+oversleep {
			p.act()
		}
		p.watch.due.Store(0)
		p.silent += awake(planned, passed)
	}
}

// awake is how much of a wait counts: a machine that slept has not waited.
func awake(planned, passed time.Duration) time.Duration { return min(passed, 2*planned+time.Second) }

// park waits until something comes or goes. It reports false at the connection's end.
func (p *pulse) park() bool {
	p.watch.parked.Store(true)
	if p.reads != p.watch.reads.Load() || p.asked != p.watch.asked.Load() {
		p.watch.wake() // it came after the look, and too early to wake us
	}
	select {
	case <-p.watch.unpark:
		return true
	case <-p.changed:
		if !p.watch.parked.CompareAndSwap(true, false) {
			<-p.watch.unpark
		}
		p.act()
		return true
	case <-p.conn.Context().Done():
		return false
	}
}

// look finds out how things are and does what is due. It returns how long to wait
// before the next look: 0 until something happens, less at the end.
func (p *pulse) look() time.Duration {
	p.reads, p.asked = p.watch.reads.Load(), p.watch.asked.Load()
	peer := p.peer()
	if peer == nil {
		return 0
	}
	now, heard := p.gate.now(), peer.heard.Load()
	silence := time.Duration(now - heard)
	if p.asked > heard {
		return p.unanswered(time.Duration(now-p.asked), now)
	}
	p.wait, p.next, p.silent = knockAgain, 0, 0
	p.watch.rtt.Store(int64(p.conn.ConnectionStats().SmoothedRTT))
	hush := min(max(2*time.Duration(p.watch.gap.Load())+10*time.Millisecond, leastHush), mostHush)
	was := time.Duration(heard - p.watch.since.Load())
	switch {
	case was >= steady && silence >= hush && p.watch.knocked.Load() <= heard:
		p.act() // needless when a transfer is just over
		p.settled = p.reads
		return hush
	case was >= steady && silence < hush:
		if silence < hush/2 { // else it may soon be needed
			p.watch.release(p.gate, hush)
		}
		return hush - silence
	}
	p.watch.release(p.gate, 0)
	switch fresh := p.reads - p.settled; {
	case silence < curious:
		return curious - silence
	case fresh >= talk:
		p.settled = p.reads
		p.ask()
		return leastPatience
	}
	p.settled = p.reads
	return 0
}

// unanswered is about a question that has been open for a while.
func (p *pulse) unanswered(open time.Duration, now int64) time.Duration {
	if p.silent > p.lost {
		closeConn(p.conn, ReasonLost, "")
		return -1
	}
	if left := p.patience() - open; left > 0 && p.watch.failed.Load() < p.watch.asked.Load() {
		return left
	}
	if left := time.Duration(p.next - now); left > 0 {
		return left
	}
	p.act()
	p.next = p.gate.now() + int64(p.wait)
	wait := p.wait
	p.wait = min(2*p.wait, knockRarely)
	return wait
}

// patience is how long an answer may take on this path: about as long as QUIC waits
// before it probes (RFC 9002, section 6.2.1), and not so long that a person notices.
func (p *pulse) patience() time.Duration {
	s := p.conn.ConnectionStats()
	return min(max(s.SmoothedRTT+4*s.MeanDeviation+25*time.Millisecond, leastPatience), mostPatience)
}

// act knocks, and has the host hear from us behind the knock.
func (p *pulse) act() {
	peer := p.peer()
	if peer == nil {
		return
	}
	p.gate.aside.expect()
	p.watch.knockAt(p.gate, peer.addr)
	p.watch.repeat(p.gate, peer)
	p.watch.useSpare(p.gate)
	p.again = p.gate.now() + int64(repeatAfter)
	p.ask()
}

// repeatAgain sends once more what went behind the last knock, when that is due: the
// host may have opened its door only after it had dropped what came first. It returns
// how long to wait, given how long there is to wait for other things.
func (p *pulse) repeatAgain(planned time.Duration) time.Duration {
	peer := p.peer()
	if p.again == 0 || planned < 0 || peer == nil {
		return planned
	}
	knocked := p.watch.knocked.Load()
	if peer.heard.Load() > knocked {
		p.again = 0
		return planned
	}
	left := time.Duration(p.again - p.gate.now())
	if left <= 0 {
		p.watch.repeat(p.gate, peer)
		since := p.again - knocked
		if since >= int64(knockAgain)/2 {
			p.again = 0
			return planned
		}
		p.again += 2 * since
		left = time.Duration(2 * since)
	}
	if planned == 0 {
		return left
	}
	return min(planned, left)
}

// ask sends a datagram that means nothing but has to be acknowledged. PROTOCOL 8.2
func (p *pulse) ask() {
	if !p.asking.CompareAndSwap(false, true) {
		return
	}
	go func() { // ends with the connection at the latest: QUIC may have no room now
		defer p.asking.Store(false)
		_ = p.conn.SendDatagram(nil)
	}()
}

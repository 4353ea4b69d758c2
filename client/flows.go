package client

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFlows is how many UDP flows one access has in its tunnel. It is less than the 256
	// that hosts allow, since the end of a flow takes its time to get there.
	maxFlows = 224

	// As conntrack sees them: a flow that is answered later than lastsAfter lasts, and may
	// be silent for longer than one that was a question with its answer.
	lastsAfter = 2 * time.Second
	onceIdle   = 30 * time.Second
	lastsIdle  = 2 * time.Minute
)

// usage is what a flow has been used for.
type usage struct {
	begin    time.Time
	last     atomic.Int64 // when a datagram came or went, since begin
	answered atomic.Bool
	lasts    atomic.Bool
}

func newUsage() *usage { return &usage{begin: time.Now()} }

func (u *usage) sent() {
	now := time.Since(u.begin)
	u.last.Store(int64(now))
	if now > lastsAfter && u.answered.Load() {
		u.lasts.Store(true)
	}
}

func (u *usage) heard() {
	u.answered.Store(true)
	u.sent()
}

// left is for how long the flow may still be silent.
func (u *usage) left() time.Duration {
	idle := onceIdle
	if u.lasts.Load() {
		idle = lastsIdle
	}
	return idle - (time.Since(u.begin) - time.Duration(u.last.Load()))
}

// packetConn is a flow that counts among its access's, and gives back what it used, once.
type packetConn struct {
	net.Conn
	*usage
	release func()
	once    sync.Once
}

// also has more done when the flow is closed.
func (c *packetConn) also(f func()) {
	release := c.release
	c.release = func() { release(); f() }
}

// Read implements [net.Conn].
func (c *packetConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		c.heard()
	}
	return n, err
}

// Write implements [net.Conn].
func (c *packetConn) Write(b []byte) (int, error) {
	c.sent()
	return c.Conn.Write(b)
}

// Close implements [net.Conn].
func (c *packetConn) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}

// flows are the flows of one access. Where there is no room for one more, the one that
// would be the first to end by its silence ends now.
type flows struct {
	mu   sync.Mutex               // guards open
	open map[*packetConn]net.Conn // nil for one that is about to be opened
}

// reserve makes room for c among as many as limit.
func (f *flows) reserve(c *packetConn, limit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) >= limit {
		f.evictLocked()
	}
	if f.open == nil {
		f.open = make(map[*packetConn]net.Conn)
	}
	f.open[c] = nil
}

// opened says that the flow of c is there, and may be ended.
func (f *flows) opened(c *packetConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[c] = c.Conn
}

func (f *flows) remove(c *packetConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// evict ends one flow, and reports whether there was one.
func (f *flows) evict() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.evictLocked()
}

func (f *flows) evictLocked() bool {
	var first *packetConn
	for c, conn := range f.open {
		if conn != nil && (first == nil || c.left() < first.left()) {
			first = c
		}
	}
	if first == nil {
		return false
	}
	f.open[first].Close() // its user meets the end in Read
	delete(f.open, first)
	return true
}

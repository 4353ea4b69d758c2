package tunnel

import "time"

const (
	// oversleep is by how much a look at the path must be late to say that this program
	// was stopped meanwhile.
	oversleep = time.Second
	// catchingUp is for how long after that QUIC is handed what came meanwhile in shares,
	// a millisecond apart: it keeps 256 datagrams of a connection, and drops what comes
	// faster than it works.
	catchingUp = 300 * time.Millisecond
	share      = 64
)

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
	if g.reader.handed += n; g.reader.handed > share {
		g.reader.handed = n
		time.Sleep(time.Millisecond)
	}
}

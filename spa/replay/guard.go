package replay

import (
	"sync"
	"time"

	"github.com/postern-sdp/postern/spa"
)

const (
	// keep is how many epochs before the present are remembered. A receiver takes
	// one; the other is for readers that were about to ask.
	keep = 2
	// maxPerEpoch bounds what is remembered of one epoch: 17,000 valid datagrams a
	// second. Those beyond it are refused.
	maxPerEpoch = 1 << 20
	// closedAhead makes a floor of the latest epoch that may have been the present
	// one: one epoch ahead was acceptable too.
	closedAhead = 2
	// allEpochs as the floor closes every epoch.
	allEpochs = 1<<63 - 1
)

// Guard remembers the accepted datagrams of the epochs that are still open. It is
// safe for concurrent use and implements [spa.Guard].
type Guard struct {
	turn sync.Mutex // held by Forget and Close for all they do; taken before mu
	mu   sync.Mutex // guards what follows; nobody waits for the disk under it

	seen    map[int64]map[[macSize]byte]struct{}
	floor   int64 // epochs below are closed for ever
	limit   int   // of one epoch
	journal *journal
}

// NewMemory returns a guard without a journal, for secrets that do not outlive
// the process that checks them.
func NewMemory() *Guard {
	return &Guard{seen: make(map[int64]map[[macSize]byte]struct{}), limit: maxPerEpoch}
}

// Once reports whether mac is new in an open epoch, and remembers it: in the
// journal first, so that what cannot be journalled is refused. PROTOCOL 6.4
func (g *Guard) Once(epoch int64, mac *[macSize]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuses(epoch, mac) {
		return false
	}
	r := record{epoch, *mac}
	if g.journal != nil && g.journal.append(r) != nil {
		return false
	}
	g.remember(r)
	return true
}

// Seen reports whether mac was accepted, or its epoch is closed or full.
func (g *Guard) Seen(epoch int64, mac *[macSize]byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refuses(epoch, mac)
}

func (g *Guard) refuses(epoch int64, mac *[macSize]byte) bool {
	_, again := g.seen[epoch][*mac]
	return again || epoch < g.floor || len(g.seen[epoch]) >= g.limit
}

func (g *Guard) remember(r record) {
	if g.seen[r.epoch] == nil {
		g.seen[r.epoch] = make(map[[macSize]byte]struct{})
	}
	g.seen[r.epoch][r.mac] = struct{}{}
}

// Forget forgets the epochs that now lies well behind and closes them, so that they
// stay closed when the clock goes back. An epoch in which nothing was accepted needs
// no closing: a clock that jumps ahead for a while shuts nobody out when it is back.
// Call it about once an epoch. It waits for the disk; Once meanwhile does not.
func (g *Guard) Forget(now time.Time) error {
	g.turn.Lock()
	defer g.turn.Unlock()
	snapshot := g.forget(spa.EpochOf(now))
	if snapshot == nil {
		return nil
	}
	return g.journal.replace(snapshot, &g.mu)
}

// forget returns what the journal is to hold from here on, or nil when there is
// nothing to do. Records that come later are kept for journal.replace.
func (g *Guard) forget(present int64) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.floor == allEpochs {
		return nil
	}
	due := len(g.seen) > 0
	for epoch := range g.seen {
		if epoch < present-keep {
			g.floor = max(g.floor, epoch+1)
			delete(g.seen, epoch)
		}
	}
	if g.journal == nil || !due && g.journal.fault == nil {
		return nil
	}
	g.journal.gather()
	return g.snapshot(present)
}

func (g *Guard) snapshot(present int64) []byte {
	room := headerSize
	for _, macs := range g.seen {
		room += len(macs) * recordSize
	}
	h := header{boot: g.journal.boot, floor: g.floor, written: present}
	b := appendHeader(make([]byte, 0, room), h)
	for epoch, macs := range g.seen {
		for mac := range macs {
			b = appendRecord(b, record{epoch, mac})
		}
	}
	return b
}

// Len returns how many datagrams are remembered.
func (g *Guard) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, macs := range g.seen {
		n += len(macs)
	}
	return n
}

// Close marks the journal as complete and closes it. It is safe to call twice;
// after it every datagram is refused.
func (g *Guard) Close() error {
	g.turn.Lock()
	defer g.turn.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	closed := g.floor == allEpochs
	g.floor = allEpochs
	if g.journal == nil || closed {
		return nil
	}
	return g.journal.close()
}

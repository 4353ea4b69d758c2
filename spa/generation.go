package spa

import (
	"sync/atomic"
	"time"
)

// generation holds the hints of one epoch, open-addressed, at most half full.
// Slots are filled under the table's lock and read without it: the owner is
// written before the hint.
type generation[K Keyed] struct {
	epoch int64
	used  int
	slots []slot[K]
}

type slot[K Keyed] struct {
	hint  atomic.Uint64 // 0: free
	owner *entry[K]
}

func newGeneration[K Keyed](epoch int64, room int) *generation[K] {
	size := 16
	for size < 2*(room+1) {
		size *= 2
	}
	return &generation[K]{epoch: epoch, slots: make([]slot[K], size)}
}

// withAll returns the generation with every identity of another one in it, which Put
// may be adding to.
func (g *generation[K]) withAll(other *generation[K]) *generation[K] {
	if other == nil {
		return g
	}
	for i := range other.slots {
		if s := &other.slots[i]; s.hint.Load() != 0 && !s.owner.dead.Load() {
			g = g.with(s.owner, g.used+1)
		}
	}
	return g
}

// with returns the generation with e in it: g itself, or a larger one that also
// leaves the dead behind.
func (g *generation[K]) with(e *entry[K], live int) *generation[K] {
	if 2*(g.used+1) <= len(g.slots) {
		g.add(e)
		return g
	}
	larger := newGeneration[K](g.epoch, 2*live)
	for i := range g.slots {
		if s := &g.slots[i]; s.hint.Load() != 0 && !s.owner.dead.Load() {
			larger.put(s.hint.Load(), s.owner)
		}
	}
	larger.add(e)
	return larger
}

func (g *generation[K]) add(e *entry[K]) { g.put(e.hint.Hint(g.epoch), e) }

func (g *generation[K]) put(hint uint64, e *entry[K]) {
	for i := hint; ; i++ {
		s := &g.slots[i&uint64(len(g.slots)-1)]
		if s.hint.Load() == 0 {
			s.owner = e
			s.hint.Store(hint)
			g.used++
			return
		}
	}
}

func (g *generation[K]) find(hint uint64, now time.Time) *entry[K] {
	if hint == 0 {
		return nil
	}
	for i := hint; ; i++ {
		s := &g.slots[i&uint64(len(g.slots)-1)]
		switch s.hint.Load() {
		case 0:
			return nil
		case hint:
			if s.owner.alive(now) {
				return s.owner
			}
		}
	}
}

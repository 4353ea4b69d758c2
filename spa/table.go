package spa

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// acceptable is how many epochs before and after the receiver's own a hint is
// taken from.
const acceptable = 1

// generations is how many epochs a table holds: those that are acceptable now,
// and one more, so that the turn of an epoch needs nobody's help.
const generations = 2*acceptable + 2

// Keyed is a secret that yields hints.
type Keyed interface {
	HintKey() key.Subkey
}

// Table finds the owner of a hint among any number of identities. A hint is
// random already, so it is its own hash: a look-up is a probe or two in each
// acceptable epoch's flat array, without a lock. Put, Remove and Roll may be called
// at any time too; the first two never wait for the HMACs of Roll.
type Table[K Keyed] struct {
	rolling sync.Mutex // held by Roll for all it does; taken before mu
	mu      sync.Mutex // guards what follows
	entries map[key.ID]*entry[K]
	late    []*entry[K] // put while Roll was at work

	current atomic.Pointer[current[K]]
}

// current are the generations in use.
type current[K Keyed] [generations]*generation[K]

// of returns the generation of an epoch, nil if there is none.
func (c *current[K]) of(epoch int64) *generation[K] {
	for _, g := range c {
		if g != nil && g.epoch == epoch {
			return g
		}
	}
	return nil
}

type entry[K Keyed] struct {
	id    key.ID
	key   K
	hint  key.Subkey
	until int64 // Unix time in ms; 0: for ever
	dead  atomic.Bool
	pace  pace
}

func (e *entry[K]) alive(now time.Time) bool {
	return !e.dead.Load() && (e.until == 0 || now.UnixMilli() < e.until)
}

// found is what a look-up yields.
type found[K Keyed] struct {
	id    key.ID
	key   K
	epoch int64
	pace  *pace
}

// NewTable returns an empty table for the epochs around now.
func NewTable[K Keyed](now time.Time) *Table[K] {
	t := &Table[K]{entries: make(map[key.ID]*entry[K])}
	t.current.Store(&current[K]{})
	t.Roll(now)
	return t
}

// Len returns the number of identities, those whose time is over included.
func (t *Table[K]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Put adds an identity, or replaces its secret. It costs four HMACs.
func (t *Table[K]) Put(id key.ID, k K) { t.PutUntil(id, k, time.Time{}) }

// PutUntil is Put for an identity that ends by itself, such as a join token or a
// session: from the time until on, its hints are unknown. It takes up room until
// Remove. The zero time is no end.
func (t *Table[K]) PutUntil(id key.ID, k K, until time.Time) {
	e := &entry[K]{id: id, key: k, hint: k.HintKey()}
	if !until.IsZero() {
		e.until = max(1, until.UnixMilli())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.entries[id]
	t.entries[id] = e
	next := *t.current.Load()
	for i, g := range next {
		next[i] = g.with(e, len(t.entries))
	}
	t.current.Store(&next)
	if t.late != nil {
		t.late = append(t.late, e)
	}
	if old != nil {
		old.dead.Store(true)
	}
}

// Remove forgets an identity: its hints are unknown from the moment this returns.
func (t *Table[K]) Remove(id key.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.entries[id]; ok {
		e.dead.Store(true)
		delete(t.entries, id)
	}
}

// Roll makes the table ready for the epochs around now and the one after them, and
// drops older ones. It costs one HMAC an identity for each epoch not yet there. Call
// it at least every third of an [Epoch]; after a jump of the clock, at once.
func (t *Table[K]) Roll(now time.Time) {
	t.rolling.Lock()
	defer t.rolling.Unlock()
	first := EpochOf(now) - acceptable
	old, live := t.startRoll()
	var fresh [generations]*generation[K]
	for i := range fresh {
		if epoch := first + int64(i); old.of(epoch) == nil {
			fresh[i] = newGeneration[K](epoch, live).withAll(old[0])
		}
	}
	t.endRoll(first, fresh)
}

// startRoll has what is put from now on gathered for endRoll.
func (t *Table[K]) startRoll() (old *current[K], live int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.late = make([]*entry[K], 0, 1)
	return t.current.Load(), len(t.entries)
}

// endRoll puts the fresh generations beside those of the old that go on.
func (t *Table[K]) endRoll(first int64, fresh [generations]*generation[K]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next current[K]
	for i, g := range fresh {
		if g == nil {
			next[i] = t.current.Load().of(first + int64(i))
			continue
		}
		for _, e := range t.late {
			g = g.with(e, len(t.entries))
		}
		next[i] = g
	}
	t.late = nil
	t.current.Store(&next)
}

// lookup finds the owner of a hint in the epochs acceptable at now.
func (t *Table[K]) lookup(hint uint64, now time.Time) (found[K], bool) {
	epoch := EpochOf(now)
	for _, g := range t.current.Load() {
		if g.epoch < epoch-acceptable || g.epoch > epoch+acceptable {
			continue
		}
		if e := g.find(hint, now); e != nil {
			return found[K]{e.id, e.key, g.epoch, &e.pace}, true
		}
	}
	return found[K]{}, false
}

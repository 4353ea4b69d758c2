package iptables

import (
	"sync"
	"time"
)

// readEvery is how often List reads all rules, whatever their stamp says.
const readEvery = time.Minute

// memory is what was last seen of the kernel's rules.
type memory struct {
	mu   sync.Mutex
	seen seen

	long    []longTimer // of the rules that this one installed
	rearmed time.Duration
}

// seen is one look at the rules. It is not changed any more.
type seen struct {
	look  uint64 // counts the looks
	stamp stamp  // of complete rules; not valid: they were not, or nobody has looked
	doors map[door]bool
	read  time.Duration // when all rules were last read
}

// has reports whether all of the doors are known.
func (s seen) has(doors map[door]bool) bool {
	for d := range doors {
		if !s.doors[d] {
			return false
		}
	}
	return true
}

func (m *memory) recall() seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

// learn notes a look that follows another one, unless there was one in between: then
// it is not the newest.
func (m *memory) learn(after seen, next seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after.look == m.seen.look {
		next.look = after.look + 1
		m.seen = next
	}
}

func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = seen{look: m.seen.look + 1}
}

// dueTimers returns the long timers if it is time to set them anew.
func (m *memory) dueTimers(now time.Duration) []longTimer {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now-m.rearmed < rearmEvery {
		return nil
	}
	return m.long
}

func (m *memory) keepTimers(long []longTimer, now time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.long, m.rearmed = long, now
}

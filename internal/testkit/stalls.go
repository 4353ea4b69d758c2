package testkit

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Stalls measures for how long at most the machine has kept this process from
// running. A test that asks how soon something happened takes that off: a busy
// machine is late in looking, which says nothing about when it happened.
type Stalls struct{ worst atomic.Int64 }

// WatchStalls begins to measure, until the end of the test.
func WatchStalls(t testing.TB) *Stalls {
	t.Helper()
	s := &Stalls{}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(stop) })
	t.Cleanup(func() {
		close(stop)
		watching.Wait()
	})
	return s
}

func (s *Stalls) watch(stop <-chan struct{}) {
	const beat = time.Millisecond
	timer := time.NewTimer(beat)
	defer timer.Stop()
	for before := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		now := time.Now()
		if stall := now.Sub(before) - beat; int64(stall) > s.worst.Load() {
			s.worst.Store(int64(stall))
		}
		before = now
		timer.Reset(beat)
	}
}

// Within returns limit and what this process may have been late: once in doing, and
// once in looking.
func (s *Stalls) Within(limit time.Duration) time.Duration {
	return limit + 2*time.Duration(s.worst.Load())
}

// Excuse reports whether something, if it happened, is owed to this process having stood
// still for about as long as it takes.
func (s *Stalls) Excuse(happened bool, takes time.Duration) bool {
	return happened && s.Within(0) >= takes
}

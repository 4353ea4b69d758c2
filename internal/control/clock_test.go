package control

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-sdp/postern/spa"
)

// In the bubble time.Now jumps, and the clock since boot is the machine's: as when
// somebody sets the wall clock.
func TestTheControllersTimeIsKnownThoughTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := new(Enrolled)
		e.learn(Answer{Offset: time.Minute})
		begin := time.Now().Add(time.Minute) // on the controller's clock
		if got := e.Offset(); (got - time.Minute).Abs() > 10*time.Second {
			t.Errorf("offset %s, want a minute", got)
		}
		time.Sleep(2 * time.Hour)
		now := time.Now().Add(e.KnockConfig(spa.KindAccess).Offset)
		if passed := now.Sub(begin); passed.Abs() > 10*time.Second {
			t.Errorf("the knock is %s off, though the controller's clock went on as it does", passed)
		}
		// Or it was this machine that stood still, and the wall clock is right.
		if doubts := e.KnockConfig(spa.KindAccess).Doubts; len(doubts) != 1 || doubts[0] != time.Minute {
			t.Errorf("doubts %v, want the offset as it was told", doubts)
		}
		if first, second := e.Guess(0), e.Guess(1); first == second {
			t.Error("all host knocks go by one clock")
		}
	})
}

func TestKnocksThatAreSentAgainTryTheDoubtfulOffsetsToo(t *testing.T) {
	k := knocker{KnockConfig: KnockConfig{Offset: time.Hour, Doubts: []time.Duration{time.Minute}}}
	seen := map[time.Duration]int{}
	for again := range retries() {
		seen[k.offset(again)]++
	}
	if seen[time.Hour] != 2 || seen[time.Minute] != 1 || seen[0] != 1 {
		t.Errorf("offsets of the retries: %v", seen)
	}
}

package host

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
)

// watch is the clock that keep rules are judged by, of a machine whose own runs with
// the bubble's, and which the test sets.
type watch struct {
	ahead time.Duration
	sure  bool
}

func (w *watch) time() (time.Time, bool) { return time.Now().Add(w.ahead), w.sure }

// ruled has an owner judge two rules: one ends at noon, one stands for ever. It calls
// f with what sets the clock, relative to noon, and lets the owner see it.
func ruled(t *testing.T, start time.Duration, f func(o *owner, set func(fromNoon time.Duration, sure bool))) {
	t.Helper()
	bubble(t, func(t *testing.T, o *owner) {
		noon := time.Now().Add(1000 * time.Hour)
		w := &watch{ahead: 1000*time.Hour + start}
		s := Settings{Keep: []config.Keep{
			{Interface: "timed", Until: noon.Format(time.RFC3339Nano)}, {Interface: "standing"},
		}}
		err := o.do(func(ctx context.Context) {
			o.time = w.time
			if err := o.setRules(ctx, s.RulesAt); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		f(o, func(fromNoon time.Duration, sure bool) {
			err := o.do(func(context.Context) {
				w.ahead, w.sure = time.Until(noon.Add(fromNoon)), sure
			})
			if err != nil {
				t.Fatal(err)
			}
			pass(2 * decisionsEvery)
		})
	})
}

// timed is the time left of the rule that ends at noon, 0 when there is none.
func (o *owner) timedLeft() time.Duration {
	synctest.Wait()
	o.kernel.mu.Lock()
	defer o.kernel.mu.Unlock()
	for _, k := range o.kernel.rules.Keep {
		if k.Interface == "timed" {
			return k.TTL
		}
	}
	return 0
}

func wantLeft(t *testing.T, o *owner, when string, want time.Duration) {
	t.Helper()
	if got := o.timedLeft(); (got - want).Abs() > ruleDrift {
		t.Errorf("%s: %v left, want %v", when, got, want)
	}
	o.kernel.mu.Lock()
	defer o.kernel.mu.Unlock()
	if n := len(o.kernel.rules.Keep); n == 0 || o.kernel.rules.Keep[n-1].Interface != "standing" {
		t.Errorf("%s: the rule without an end is gone", when)
	}
}

func TestAKeepRuleThatAWrongClockKeptOpenEndsWhenTheClockIsRight(t *testing.T) {
	ruled(t, -100*time.Hour, func(o *owner, set func(time.Duration, bool)) {
		wantLeft(t, o, "by the clock at start", 100*time.Hour)
		set(time.Hour, false) // a time service has set it
		wantLeft(t, o, "by the right one", 0)
	})
}

func TestAClockThatGoesBackGivesNoKeepRuleMoreTime(t *testing.T) {
	ruled(t, -time.Hour, func(o *owner, set func(time.Duration, bool)) {
		set(-50*time.Hour, false)
		wantLeft(t, o, "an hour before noon, set back", time.Hour)
		set(time.Hour, false)
		wantLeft(t, o, "after noon", 0)
		set(-time.Hour, false)
		wantLeft(t, o, "after noon, set back", 0)
	})
}

// TestAClockThatIsSetShowsInTheTimeThatRulesWereJudgedBy: in a time with a monotonic
// reading, as time.Now returns it outside of a bubble, it does not.
func TestAClockThatIsSetShowsInTheTimeThatRulesWereJudgedBy(t *testing.T) {
	b := newSessions(&sessions{now: bootClock, time: func() (time.Time, bool) { return time.Now(), false }})
	if err := b.judge(Settings{}.RulesAt); err != nil {
		t.Fatal(err)
	}
	if b.judged != b.judged.Round(0) {
		t.Errorf("judged at %v", b.judged)
	}
}

func TestTheControllersTimeJudgesKeepRulesInBothDirections(t *testing.T) {
	ruled(t, time.Hour, func(o *owner, set func(time.Duration, bool)) {
		wantLeft(t, o, "the machine's clock is ahead", 0)
		set(-2*time.Hour, true)
		wantLeft(t, o, "the controller says that it is before noon", 2*time.Hour)
		set(-time.Minute, true)
		wantLeft(t, o, "the controller's clock was set", time.Minute)
		set(time.Hour, true)
		wantLeft(t, o, "and is past noon", 0)
	})
}

func TestAClockThatIsRightReinstallsNothing(t *testing.T) {
	ruled(t, -time.Hour, func(o *owner, set func(time.Duration, bool)) {
		installs := func() int {
			o.kernel.mu.Lock()
			defer o.kernel.mu.Unlock()
			return o.kernel.installs
		}
		before := installs()
		pass(30 * time.Minute)
		set(-30*time.Minute+ruleDrift/2, true)
		if more := installs() - before; more != 0 {
			t.Errorf("installed %d times", more)
		}
	})
}

// TestRulesAreJudgedByTheControllersTimeOnceItIsKnown, by a whole agent.
func TestRulesAreJudgedByTheControllersTimeOnceItIsKnown(t *testing.T) {
	a := newInProcess(t)
	a.config.Keep = []config.Keep{{Interface: "timed", Until: time.Now().Add(48 * time.Hour).Format(time.RFC3339)}}
	ready := make(chan *Running, 1)
	a.config.Ready = func(r *Running) { ready <- r }
	link := a.start(t)
	r := <-ready
	kept := func() (rules []firewall.Keep) {
		a.kernel.mu.Lock()
		defer a.kernel.mu.Unlock()
		return a.kernel.rules.Keep
	}
	if len(kept()) != 1 {
		t.Fatalf("at start: %v", kept())
	}
	link.order(control.ToHost{Sync: &control.Sync{Now: time.Now().Add(72 * time.Hour)}})
	err := r.agent.sessions.do(func(ctx context.Context) { r.agent.sessions.rejudge(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	if len(kept()) != 0 {
		t.Errorf("after its end by the controller's clock: %v", kept())
	}
	a.stop(t)
}

package spa

import (
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// One identity may knock as fast as its machine can: the others get in all the same,
// and what is shared, the replay guard, is not filled by it. PROTOCOL 6.8
func TestOneIdentityCannotTakeUpTheReceiver(t *testing.T) {
	b := newBench(t)
	other, otherKnock := key.NewID(), key.NewKnock()
	b.table.Put(other, otherKnock)
	receive := func(now time.Time) Reason {
		packet, _ := b.seal(t, b.request())
		_, reason := b.rx.Receive(packet, now)
		return reason
	}
	for i := range PaceBurst {
		if reason := receive(testTime); reason != ReasonOK {
			t.Fatalf("knock %d: %s, want ok", i, reason)
		}
	}
	for range PaceBurst {
		if reason := receive(testTime); reason != ReasonPace {
			t.Fatalf("beyond the burst: %s, want pace", reason)
		}
	}
	if len(b.guard) != PaceBurst {
		t.Errorf("the guard remembers %d, want %d", len(b.guard), PaceBurst)
	}
	r := b.request()
	r.Device = other
	packet, _, err := SealKnock(otherKnock, b.private.Public(), testName, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, reason := b.rx.Receive(packet, testTime); reason != ReasonOK {
		t.Errorf("another identity: %s, want ok", reason)
	}
	soon := testTime.Add(PaceEvery)
	if one, two := receive(soon), receive(soon); one != ReasonOK || two != ReasonPace {
		t.Errorf("a little later: %s, %s, want ok, pace", one, two)
	}
}

// Whoever recorded a knock cannot use up what its sender may send.
func TestAReplayTakesNothingOfItsSendersPace(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	for i := range 2 * PaceBurst {
		_, reason := b.rx.Receive(packet, testTime)
		if want := map[bool]Reason{true: ReasonOK, false: ReasonReplay}[i == 0]; reason != want {
			t.Fatalf("time %d: %s, want %s", i, reason, want)
		}
	}
	next, _ := b.seal(t, b.request())
	if _, reason := b.rx.Receive(next, testTime); reason != ReasonOK {
		t.Errorf("the sender's next one: %s, want ok", reason)
	}
}

func TestAClockThatIsSetBackHoldsNobodyUp(t *testing.T) {
	var p pace
	for p.take(testTime) {
	}
	if !p.take(testTime.Add(-time.Hour)) {
		t.Error("an hour earlier, nothing is taken")
	}
	for range PaceBurst - 1 {
		p.take(testTime.Add(-time.Hour))
	}
	if p.take(testTime.Add(-time.Hour)) {
		t.Error("an hour earlier, more than a burst is taken")
	}
}

func TestHostKnocksOfOneSessionHaveAPaceToo(t *testing.T) {
	host, session, k := key.NewID(), key.NewID(), key.NewHostKnock()
	table := NewTable[key.HostKnock](testTime)
	table.Put(session, k)
	guard := onceGuard{}
	rx := NewHostKnockReceiver(host, table, guard)
	counts := make(map[Reason]int)
	for range 2 * PaceBurst {
		_, reason := rx.Receive(SealHostKnock(k, host, session, testTime), testTime)
		counts[reason]++
	}
	if counts[ReasonOK] != PaceBurst || counts[ReasonPace] != PaceBurst || len(guard) != PaceBurst {
		t.Errorf("%v, the guard remembers %d", counts, len(guard))
	}
}

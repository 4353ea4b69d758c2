package spa

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

func TestHintsRollAndOldOnesEnd(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	id, k := key.NewID(), key.NewKnock()
	table.Put(id, k)
	hint := k.HintKey()
	now := testTime
	for range 10 {
		epoch := EpochOf(now)
		for off := int64(-3); off <= 3; off++ {
			got, ok := table.lookup(hint.Hint(epoch+off), now)
			if want := off >= -1 && off <= 1; ok != want || ok && got.id != id {
				t.Fatalf("hint %+d epochs away: found %v, want %v", off, ok, want)
			}
		}
		now = now.Add(Epoch)
		table.Roll(now)
	}
	table.Roll(testTime) // a clock that jumps back
	if _, ok := table.lookup(hint.Hint(EpochOf(testTime)), testTime); !ok {
		t.Error("unknown after the clock went back")
	}
}

func TestTheTurnOfAnEpochNeedsNoRoll(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	k := key.NewKnock()
	table.Put(key.NewID(), k)
	later := testTime.Add(Epoch)
	if _, ok := table.lookup(k.HintKey().Hint(EpochOf(later)+1), later); !ok {
		t.Error("the next epoch's next hint is unknown until Roll")
	}
}

func TestTableHoldsManyWhileTheyComeAndGo(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	const n = 2000
	ids, keys := make([]key.ID, n), make([]key.Knock, n)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				table.lookup(rand.Uint64(), testTime)
			}
		}
	})
	for i := range n {
		ids[i], keys[i] = key.NewID(), key.NewKnock()
		table.Put(ids[i], keys[i])
		if i%3 == 0 {
			table.Remove(ids[i])
		}
	}
	close(stop)
	readers.Wait()
	for i := range n {
		got, ok := table.lookup(keys[i].HintKey().Hint(EpochOf(testTime)), testTime)
		if gone := i%3 == 0; ok == gone || ok && got.id != ids[i] {
			t.Fatalf("identity %d: found %v", i, ok)
		}
	}
	if want := n - (n+2)/3; table.Len() != want {
		t.Errorf("Len %d, want %d", table.Len(), want)
	}
}

// A join token or a session ends by itself.
func TestAnIdentityWithAnEndIsUnknownFromThenOn(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	id, k := key.NewID(), key.NewKnock()
	end := testTime.Add(time.Second)
	table.PutUntil(id, k, end)
	hint := k.HintKey().Hint(EpochOf(testTime))
	if _, ok := table.lookup(hint, end.Add(-time.Millisecond)); !ok {
		t.Error("unknown before its end")
	}
	for _, late := range []time.Duration{0, time.Millisecond, Epoch / 2} {
		if _, ok := table.lookup(hint, end.Add(late)); ok {
			t.Errorf("known %s after its end", late)
		}
	}
	table.Put(id, k)
	if _, ok := table.lookup(hint, end); !ok {
		t.Error("unknown after it was put without an end")
	}
}

func TestAReplacedSecretEndsTheOldOne(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	id, old, k := key.NewID(), key.NewKnock(), key.NewKnock()
	table.Put(id, old)
	table.Put(id, k)
	epoch := EpochOf(testTime)
	if _, ok := table.lookup(old.HintKey().Hint(epoch), testTime); ok {
		t.Error("the old secret is still known")
	}
	if got, ok := table.lookup(k.HintKey().Hint(epoch), testTime); !ok || !got.key.Equal(k) {
		t.Error("the new secret is unknown")
	}
}

// Roll reckons the hints without the lock; what comes and goes meanwhile counts.
func TestWhatComesAndGoesDuringARollIsSeen(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	const n = 600
	keys, ids := make([]key.Knock, n), make([]key.ID, n)
	var rolls sync.WaitGroup
	stop := make(chan struct{})
	far := testTime.Add(100 * Epoch)
	rolls.Go(func() {
		for now := testTime; ; now = far.Add(testTime.Sub(now)) {
			table.Roll(now)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range n {
		ids[i], keys[i] = key.NewID(), key.NewKnock()
		table.Put(ids[i], keys[i])
		if i >= 10 && i%2 == 0 {
			table.Remove(ids[i-10])
		}
	}
	close(stop)
	rolls.Wait()
	for _, now := range []time.Time{testTime, far, testTime} {
		table.Roll(now)
		for i, k := range keys {
			gone := i%2 == 0 && i < n-10
			got, ok := table.lookup(k.HintKey().Hint(EpochOf(now)), now)
			if ok == gone || ok && got.id != ids[i] {
				t.Fatalf("identity %d: found %v, want %v", i, ok, !gone)
			}
		}
	}
}

// Revoking a device must not wait for the hints of a million others.
func TestRemoveDoesNotWaitForARoll(t *testing.T) {
	table := NewTable[key.Knock](testTime)
	for range 5000 {
		table.Put(key.NewID(), key.NewKnock())
	}
	for round := range int64(100) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			table.Roll(testTime.Add(time.Duration(round+1) * 100 * Epoch))
		}()
		during := false
		for running := true; running && !during; {
			if table.rolling.TryLock() { // not begun, or over
				table.rolling.Unlock()
			} else {
				table.Remove(key.NewID())
				during = !table.rolling.TryLock()
				if !during {
					table.rolling.Unlock()
				}
			}
			select {
			case <-done:
				running = false
			default:
			}
		}
		<-done
		if during {
			return
		}
	}
	t.Error("Remove never returned before the Roll that was at work")
}

func TestRejectingGarbageAllocatesNothing(t *testing.T) {
	b := newBench(t)
	garbage := make([]byte, Size)
	short := make([]byte, Size-1)
	n := testing.AllocsPerRun(1000, func() {
		binary.BigEndian.PutUint64(garbage, rand.Uint64())
		b.rx.Receive(garbage, testTime)
		b.rx.Receive(short, testTime)
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// A forger who knows a hint, seen on the wire, costs an HMAC under a derived key and
// nothing that lasts.
func TestRejectingAWrongMACCostsABoundedAmount(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	packet[Size-1] ^= 1
	n := testing.AllocsPerRun(100, func() {
		if _, reason := b.rx.Receive(packet, testTime); reason != ReasonMAC {
			t.Fatal(reason)
		}
	})
	if n > 40 {
		t.Errorf("%v allocations, want at most 40", n)
	}
	if len(b.guard) != 0 {
		t.Error("a forged datagram is remembered")
	}
}

func BenchmarkRejectWrongMAC(b *testing.B) {
	t := newBench(b)
	packet, _ := t.seal(b, t.request())
	packet[Size-1] ^= 1
	b.ReportAllocs()
	for b.Loop() {
		if _, reason := t.rx.Receive(packet, testTime); reason != ReasonMAC {
			b.Fatal(reason)
		}
	}
}

func BenchmarkRejectGarbageAmongAMillionDevices(b *testing.B) {
	table := NewTable[key.Knock](testTime)
	for range 1_000_000 {
		table.Put(key.NewID(), key.NewKnock())
	}
	rx, err := NewKnockReceiver(testName, key.NewControllerPrivate(), table, onceGuard{})
	if err != nil {
		b.Fatal(err)
	}
	garbage := make([][Size]byte, 4096)
	r := rand.NewChaCha8([32]byte{1})
	for i := range garbage {
		r.Read(garbage[i][:])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, reason := rx.Receive(garbage[i&4095][:], testTime); reason != ReasonHint {
			b.Fatal(reason)
		}
		i++
	}
}

func BenchmarkReceiveValid(b *testing.B) {
	t := newBench(b)
	packets := make([][]byte, 0, 20000)
	pace := &t.table.entries[t.device].pace
	for b.Loop() {
		pace.full.Store(0) // one of many devices
		if len(packets) == 0 {
			b.StopTimer()
			clear(t.guard)
			for range cap(packets) {
				p, _ := t.seal(b, t.request())
				packets = append(packets, p)
			}
			b.StartTimer()
		}
		p := packets[len(packets)-1]
		packets = packets[:len(packets)-1]
		if _, reason := t.rx.Receive(p, testTime); reason != ReasonOK {
			b.Fatal(reason)
		}
	}
}

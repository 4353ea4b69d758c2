package spa

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

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
	for b.Loop() {
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

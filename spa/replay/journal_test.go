package replay

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/spa"
)

// journalBytes returns a journal of three datagrams as a killed process, or one
// that was closed in order, leaves it.
func journalBytes(t testing.TB, closed bool) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	g, err := open(path, bootA, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		if !g.Once(epoch, mac(i)) {
			t.Fatal("refused")
		}
	}
	if closed {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeJournal(t testing.TB, b []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryFlippedBitOfAJournalIsDamageAndLeftAsItIs(t *testing.T) {
	for name, c := range map[string]struct {
		closed bool
		boot   string
	}{
		"killed, same boot":   {false, bootA},
		"closed, same boot":   {true, bootA},
		"closed, other boots": {true, bootB},
	} {
		good := journalBytes(t, c.closed)
		end := len(good)
		if c.closed && c.boot == bootB {
			end -= recordSize // a broken end mark is what a crash of the machine leaves
		}
		path := writeJournal(t, nil)
		for i := range end {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := open(path, c.boot, now)
			if !errors.Is(err, ErrCorrupt) && (i >= len(magic) || !errors.Is(err, ErrVersion)) {
				t.Fatalf("%s, byte %d flipped: %v", name, i, err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(after, bad) {
				t.Fatalf("%s, byte %d flipped: the file was changed", name, i)
			}
		}
	}
}

func TestRecordsBehindTheEndMarkAreDamage(t *testing.T) {
	closed := journalBytes(t, true)
	for name, tail := range map[string][]byte{
		"a byte": {0}, "a record": appendRecord(nil, record{epoch, *mac(7)}),
		"a second end": appendRecord(nil, endRecord()),
	} {
		path := writeJournal(t, append(bytes.Clone(closed), tail...))
		if _, err := open(path, bootA, now); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want %v", name, err, ErrCorrupt)
		}
	}
}

// A machine that crashes may leave zeros or garbage where records were appended.
func TestATailThatTheMachinesCrashBrokeClosesTheEpochs(t *testing.T) {
	good := journalBytes(t, false)
	for cut := 1; cut < 3*recordSize; cut++ {
		clear(good[len(good)-cut:])
		g := mustOpen(t, writeJournal(t, good), bootB, now)
		for off := int64(-1); off <= 1; off++ {
			if g.Once(epoch+off, mac(2)) {
				t.Fatalf("%d bytes zeroed: epoch %+d is open", cut, off)
			}
		}
	}
}

// The clock of a machine without a battery starts long ago and is set right within
// the minute.
func TestAClockThatIsBehindAfterTheCrashReopensNothing(t *testing.T) {
	long := now.AddDate(-20, 0, 0)
	begun := appendHeader(nil, header{boot: bootA, written: epoch - 100})
	for name, b := range map[string][]byte{
		"by a record alone": appendRecord(begun, record{epoch, *mac(0)}),
		"by its records":    journalBytes(t, false),
		"by when it began":  journalBytes(t, false)[:headerSize],
		"by both, one torn": journalBytes(t, false)[:headerSize+recordSize/2],
	} {
		g := mustOpen(t, writeJournal(t, b), bootB, long)
		for off := int64(-1); off <= 1; off++ {
			if g.Once(epoch+off, mac(0)) {
				t.Errorf("%s: epoch %+d is open once the clock is right", name, off)
			}
		}
	}
}

func TestAClockThatJumpsAheadForAWhileShutsNobodyOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch-1, mac(1))
	if err := g.Forget(now.AddDate(50, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if g.Once(epoch-1, mac(1)) {
		t.Error("accepted again")
	}
	if !g.Once(epoch, mac(2)) {
		t.Error("an epoch in which nothing was accepted is closed")
	}
}

// What is accepted while Forget waits for the disk must be in the new file too.
func TestWhatIsAcceptedDuringARotationIsNotLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	snapshot := g.forget(epoch)
	if !g.Once(epoch, mac(2)) {
		t.Fatal("refused during a rotation")
	}
	if err := g.journal.replace(snapshot, &g.mu); err != nil {
		t.Fatal(err)
	}
	if !g.Once(epoch, mac(3)) {
		t.Fatal("refused after a rotation")
	}
	again := mustOpen(t, path, bootA, now)
	for i := uint64(1); i <= 3; i++ {
		if again.Once(epoch, mac(i)) {
			t.Errorf("datagram %d was accepted again after the kill", i)
		}
	}
}

func TestARotationThatFailsLeavesTheOldJournalAtWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.Forget(now); err == nil {
		t.Fatal("no error")
	}
	if !g.Once(epoch, mac(2)) {
		t.Error("refused after a rotation that failed")
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, path, bootA, now)
	if again.Once(epoch, mac(1)) || again.Once(epoch, mac(2)) {
		t.Error("a record was lost")
	}
}

func TestAStuckJournalRefusesUntilItIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	if err := g.journal.file.Close(); err != nil { // neither writes nor cuts any more
		t.Fatal(err)
	}
	for i := uint64(2); i < 4; i++ {
		if g.Once(epoch, mac(i)) {
			t.Errorf("datagram %d was accepted without a record", i)
		}
	}
	if err := g.Forget(now); err != nil {
		t.Fatal(err)
	}
	if !g.Once(epoch, mac(4)) {
		t.Error("refused after the journal was replaced")
	}
	again := mustOpen(t, path, bootA, now)
	if again.Once(epoch, mac(1)) || again.Once(epoch, mac(4)) {
		t.Error("a record was lost")
	}
}

func TestAnIdleGuardLeavesTheDiskAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Forget(now.Add(spa.Epoch)); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the journal was replaced for nothing (%v)", err)
	}
}

// FuzzJournal: whatever reads is written back byte for byte, but for a torn end, and
// a guard made from it lets nothing in twice.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{})
	for _, closed := range []bool{false, true} {
		b := journalBytes(f, closed)
		f.Add(b)
		f.Add(b[:headerSize])
		f.Add(b[:len(b)-1])
		f.Add(append(bytes.Clone(b), make([]byte, recordSize)...))
	}
	path := filepath.Join(f.TempDir(), "journal")
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseJournal(b)
		if err != nil {
			if c.boot != "" || c.records != nil || c.complete {
				t.Errorf("refused, and yet %+v", c)
			}
		} else if again := c.text(); !bytes.HasPrefix(b, again) {
			t.Errorf("parsed %x\nwrote  %x", b, again)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := open(path, bootB, now)
		if err != nil {
			if g != nil {
				t.Error("a guard with an error")
			}
			return
		}
		_ = g.Once(epoch, mac(1))
		if g.Once(epoch, mac(1)) {
			t.Error("accepted twice")
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (c contents) text() []byte {
	b := appendHeader(nil, c.header)
	for _, r := range c.records {
		b = appendRecord(b, r)
	}
	if c.complete {
		b = appendRecord(b, endRecord())
	}
	return b
}

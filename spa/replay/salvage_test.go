package replay

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/postern-sdp/postern/spa"
)

// TestADamagedJournalIsSetAsideAndNothingIsTakenTwice, whatever byte of it is wrong.
func TestADamagedJournalIsSetAsideAndNothingIsTakenTwice(t *testing.T) {
	good := journalBytes(t, false)
	for i := 0; i < len(good); i += 7 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		path := writeJournal(t, bad)
		g, damage, err := salvage(path, bootA, now)
		if err != nil || !errors.Is(damage, ErrCorrupt) && !errors.Is(damage, ErrVersion) {
			t.Fatalf("byte %d flipped: %v, %v", i, damage, err)
		}
		if aside, err := os.ReadFile(path + damaged); err != nil || !bytes.Equal(aside, bad) {
			t.Fatalf("byte %d flipped: not set aside: %v", i, err)
		}
		wantClosed(t, g, epoch)
		again := mustOpen(t, path, bootA, now) // as after kill -9
		wantClosed(t, again, epoch)
		if !again.Once(epoch+closedAhead, mac(9)) {
			t.Fatalf("byte %d flipped: refused two epochs later, too", i)
		}
	}
}

// wantClosed checks that nothing is taken that could have been when last was the
// present epoch.
func wantClosed(t *testing.T, g *Guard, last int64) {
	t.Helper()
	for e := last - 2; e < last+closedAhead; e++ {
		for i := range uint64(4) {
			if g.Once(e, mac(i)) {
				t.Fatalf("epoch %+d: datagram %d was taken", e-last, i)
			}
		}
	}
}

// TestADamagedJournalOfALaterClockClosesThatTime: what can be read counts, when the
// clock is behind now.
func TestADamagedJournalOfALaterClockClosesThatTime(t *testing.T) {
	good := journalBytes(t, false)
	for name, at := range map[string]int{"header": 3, "first record": headerSize, "last record": len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		g, damage, err := salvage(writeJournal(t, bad), bootA, now.Add(-100*spa.Epoch))
		if err != nil || damage == nil {
			t.Fatalf("%s: %v, %v", name, damage, err)
		}
		wantClosed(t, g, epoch)
	}
}

func TestAGoodJournalIsNotSalvaged(t *testing.T) {
	path := writeJournal(t, journalBytes(t, false))
	g, damage, err := salvage(path, bootA, now)
	if err != nil || damage != nil {
		t.Fatalf("%v, %v", damage, err)
	}
	if g.Once(epoch, mac(1)) || !g.Once(epoch, mac(9)) {
		t.Error("it does not carry on")
	}
	if _, err := os.Lstat(path + damaged); err == nil {
		t.Error("set aside")
	}
}

func TestWhatCannotBeSetAsideIsLeft(t *testing.T) {
	path := writeJournal(t, []byte("damaged"))
	if err := os.MkdirAll(path+damaged+"/something", 0o700); err != nil {
		t.Fatal(err)
	}
	g, _, err := salvage(path, bootA, now)
	if err == nil || g != nil {
		t.Fatal("salvaged")
	}
	if b, _ := os.ReadFile(path); string(b) != "damaged" {
		t.Errorf("the journal is now %q", b)
	}
}

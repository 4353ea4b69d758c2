package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa"
)

var (
	now   = time.Unix(1_800_000_000, 0)
	epoch = spa.EpochOf(now)
)

const (
	bootA = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
	bootB = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
)

func mac(n uint64) *[32]byte {
	var m [32]byte
	binary.BigEndian.PutUint64(m[:], n)
	return &m
}

func mustOpen(t *testing.T, path, boot string, at time.Time) *Guard {
	t.Helper()
	g, err := open(path, boot, at)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEachDatagramGetsInOnceAmongMany(t *testing.T) {
	g := mustOpen(t, filepath.Join(t.TempDir(), "journal"), bootA, now)
	var in atomic.Int64
	var wg sync.WaitGroup
	const n = 500
	for range 4 {
		wg.Go(func() {
			for i := range uint64(n) {
				if g.Once(epoch, mac(i)) {
					in.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if in.Load() != n || g.Len() != n {
		t.Errorf("%d accepted, %d remembered, want %d", in.Load(), g.Len(), n)
	}
}

// A guard that is not closed is a process that was killed.
func TestAKillReopensNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	for i := range uint64(10) {
		if !g.Once(epoch, mac(i)) {
			t.Fatal("refused")
		}
	}
	again := mustOpen(t, path, bootA, now)
	for i := range uint64(10) {
		if again.Once(epoch, mac(i)) {
			t.Errorf("datagram %d was accepted again after the kill", i)
		}
	}
	if !again.Once(epoch, mac(99)) {
		t.Error("a new datagram is refused")
	}
	third := mustOpen(t, path, bootA, now)
	if third.Once(epoch, mac(0)) || third.Once(epoch, mac(99)) {
		t.Error("accepted again after the second kill")
	}
}

func TestACrashOfTheMachineClosesWhatMayBeLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	rebooted := mustOpen(t, path, bootB, now)
	for off := int64(-1); off <= 1; off++ {
		if rebooted.Once(epoch+off, mac(7)) {
			t.Errorf("epoch %+d is open after an unclean boot: its journal may be incomplete", off)
		}
	}
	if !rebooted.Once(epoch+2, mac(7)) {
		t.Error("the first epoch that nobody can have used is closed")
	}
	// The floor itself survives another crash in the same boot.
	if mustOpen(t, path, bootB, now).Once(epoch, mac(8)) {
		t.Error("the second start forgot that the epochs are closed")
	}
}

func TestAnOrderlyRestartOfTheMachineClosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	for range 2 {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if g.Once(epoch, mac(2)) {
		t.Error("a closed guard accepts")
	}
	rebooted := mustOpen(t, path, bootB, now)
	if rebooted.Once(epoch, mac(1)) {
		t.Error("accepted again")
	}
	if !rebooted.Once(epoch, mac(2)) {
		t.Error("a new datagram is refused")
	}
}

func TestAClockThatGoesBackReopensNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	if err := g.Forget(now.Add(10 * spa.Epoch)); err != nil {
		t.Fatal(err)
	}
	if g.Len() != 0 {
		t.Errorf("%d remembered of epochs long gone", g.Len())
	}
	if g.Once(epoch, mac(1)) {
		t.Error("the forgotten datagram was accepted again")
	}
	if mustOpen(t, path, bootA, now).Once(epoch, mac(1)) {
		t.Error("accepted again after a restart with the clock back")
	}
}

func TestATornRecordAtTheEndIsNoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	g.Once(epoch, mac(2))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < recordSize; cut++ {
		if err := os.WriteFile(path, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := mustOpen(t, path, bootA, now)
		if again.Once(epoch, mac(1)) {
			t.Fatalf("%d bytes torn off: the first record is lost", cut)
		}
	}
}

func TestAForeignJournalIsRefusedAndKept(t *testing.T) {
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"newer":        {[]byte("postern-replay3\n" + strings.Repeat("x", 200)), ErrVersion},
		"no journal":   {[]byte("hello"), ErrVersion},
		"empty":        {nil, ErrVersion},
		"older":        {[]byte("postern-replay1\n" + strings.Repeat("x", 200)), ErrVersion},
		"short header": {[]byte(magic + "x"), ErrCorrupt},
		"wrong sum":    {[]byte(magic + strings.Repeat("x", 200)), ErrCorrupt},
	} {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(path, bootA, now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, c.text) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestWhatCannotBeJournalledIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	g := mustOpen(t, path, bootA, now)
	g.Once(epoch, mac(1))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	full := old
	full.Cur = uint64(info.Size()) + recordSize/2 // the next record tears
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	accepted := g.Once(epoch, mac(2))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if accepted {
		t.Error("accepted on a full disk")
	}
	if !g.Once(epoch, mac(3)) {
		t.Error("refused after the disk had room again")
	}
	again := mustOpen(t, path, bootA, now)
	if again.Once(epoch, mac(1)) || again.Once(epoch, mac(3)) {
		t.Error("the full disk cost an accepted record")
	}
}

func TestTheRealBootIDOpens(t *testing.T) {
	g, err := Open(filepath.Join(t.TempDir(), "journal"), now)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFullEpochRefusesMore(t *testing.T) {
	g := NewMemory()
	g.limit = 3
	for i := range uint64(5) {
		if got, want := g.Once(epoch, mac(i)), i < 3; got != want {
			t.Errorf("datagram %d: accepted %v, want %v", i, got, want)
		}
	}
	if !g.Once(epoch+1, mac(9)) {
		t.Error("the next epoch has no room of its own")
	}
}

func BenchmarkOnce(b *testing.B) {
	g, err := open(filepath.Join(b.TempDir(), "journal"), bootA, now)
	if err != nil {
		b.Fatal(err)
	}
	n := uint64(0)
	for b.Loop() {
		n++
		g.Once(epoch, mac(n))
	}
}

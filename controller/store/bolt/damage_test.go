package bolt

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/controller/store"
)

// content returns all records of bucket b.
func content(s *Store) (map[string]string, error) {
	all := make(map[string]string)
	return all, s.View(func(tx store.Tx) error {
		return tx.Each("b", func(key string, value []byte) error {
			all[key] = string(value)
			return nil
		})
	})
}

// A state with one bit changed anywhere is refused, or the bit was of no use. The
// two meta pages are left out: a damaged one is bbolt's sign of a write that the
// machine's crash broke off, and the one before it counts.
func TestAChangedBitIsNoticedOrMeansNothing(t *testing.T) {
	path := filled(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := content(s)
	if err != nil || len(want) == 0 {
		t.Fatal(len(want), err)
	}
	s.Close()
	pageSize := os.Getpagesize()
	random := rand.New(rand.NewPCG(1, 2))
	copied := filepath.Join(t.TempDir(), "copy.db")
	var refused, same int
	for i := range 400 {
		within := pageSize
		if i%2 == 0 {
			within = 64 // where the pages' structure is
		}
		at := (2+random.IntN(len(whole)/pageSize-2))*pageSize + random.IntN(within)
		bit := byte(1) << random.IntN(8)
		whole[at] ^= bit
		if err := os.WriteFile(copied, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		whole[at] ^= bit
		s, err := Open(copied)
		if err != nil {
			refused++
			continue
		}
		got, err := content(s)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("byte %d of page %d: opened with %d of %d records, %v",
				at%pageSize, at/pageSize, len(got), len(want), err)
		}
		same++
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 || same == 0 {
		t.Errorf("%d refused, %d without effect: the test misses one side", refused, same)
	}
}

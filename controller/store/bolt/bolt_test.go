package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/controller/store/storetest"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// filled returns the path of a closed state with some records in it.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 2000)
	rand.Read(value)
	err = s.Update(func(tx store.Tx) error {
		for i := range 200 {
			if err := tx.Put("b", strings.Repeat("k", i+1), value); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused checks that Open fails with want and leaves every byte as it was.
func refused(t *testing.T, path string, want error) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("error %q, want %q", err, want)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestStateOfANewerVersionIsRefusedAndKept(t *testing.T) {
	path := filled(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(func(tx store.Tx) error { return tx.Put(metaBucket, versionKey, []byte("2")) })
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	refused(t, path, store.ErrNewer)
}

func TestADamagedStateIsRefusedAndKept(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut to a half":   func(b []byte) []byte { return b[:len(b)/2] },
		"cut to one page": func(b []byte) []byte { return b[:4096] },
		"cut to a word":   func(b []byte) []byte { return b[:8] },
		"empty":           func([]byte) []byte { return nil },
		"a page that leads to itself": func(b []byte) []byte {
			root := binary.NativeEndian.Uint64(newestMeta(b)[16:]) * 4096
			page := b[root : root+4096]
			binary.NativeEndian.PutUint16(page[8:], branchFlag)
			binary.NativeEndian.PutUint16(page[10:], 1)
			binary.NativeEndian.PutUint32(page[headerSize:], elementSize) // the key follows
			binary.NativeEndian.PutUint32(page[headerSize+4:], 1)
			binary.NativeEndian.PutUint64(page[headerSize+8:], root/4096)
			return b
		},
		"a used page in the list of free ones": func(b []byte) []byte {
			root := binary.NativeEndian.Uint64(newestMeta(b)[16:])
			list := b[4096*binary.NativeEndian.Uint64(newestMeta(b)[32:]):]
			binary.NativeEndian.PutUint64(list[headerSize:], root)
			return b
		},
		"a free page missing in their list": func(b []byte) []byte {
			list := b[4096*binary.NativeEndian.Uint64(newestMeta(b)[32:]):]
			count := binary.NativeEndian.Uint16(list[10:])
			binary.NativeEndian.PutUint16(list[10:], count-1)
			return b
		},
		"an endless list of free pages": func(b []byte) []byte {
			list := b[4096*binary.NativeEndian.Uint64(newestMeta(b)[32:]):]
			binary.NativeEndian.PutUint16(list[10:], manyFree)
			binary.NativeEndian.PutUint64(list[headerSize:], 1<<60)
			return b
		},
		"not a database": func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 4096) },
		"zeroes in the middle": func(b []byte) []byte {
			clear(b[3*4096 : len(b)-4096])
			return b
		},
		"both metas": func(b []byte) []byte {
			clear(b[:2*4096])
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, path, store.ErrCorrupt)
		})
	}
}

// newestMeta returns the content of the meta page in force.
func newestMeta(b []byte) []byte {
	first, second := b[headerSize:], b[4096+headerSize:]
	if binary.NativeEndian.Uint64(first[48:]) > binary.NativeEndian.Uint64(second[48:]) {
		return first
	}
	return second
}

func TestTheStateIsPrivateAndNothingLiesBesideIt(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filled(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("in its folder: %v, %v", entries, err)
	}
}

func TestAPanicOfTheCallerStaysOneAndLocksNothing(t *testing.T) {
	s, err := Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	func() {
		defer func() {
			if got := recover(); got != "mine" {
				t.Errorf("recovered %v", got)
			}
		}()
		_ = s.Update(func(tx store.Tx) error {
			_ = tx.Put("b", "half", nil)
			panic("mine")
		})
	}()
	err = s.Update(func(tx store.Tx) error {
		if _, err := tx.Get("b", "half"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("half an update was kept: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// bbolt has the file mapped: cut it under its feet, and each access is a fault.
func TestAFileCutWhileItIsOpenIsAnErrorAndNoCrash(t *testing.T) {
	path := filled(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx store.Tx) error {
		_, err := tx.Get("b", "k")
		return err
	})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	err = s.Update(func(tx store.Tx) error {
		_ = tx.Put("b", "k", []byte("v")) // an error that is not passed on
		return nil
	})
	if err == nil {
		t.Error("a write was acknowledged")
	}
}

func TestWhatBboltPanickedOverIsNotCommitted(t *testing.T) {
	s, err := Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Update(func(tx store.Tx) error {
		if err := tx.Put("b", "half", nil); err != nil {
			return err
		}
		_ = tx.(*transaction).guarded(func() error { panic("a damaged page") })
		return nil // an error that is not passed on
	})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if all, err := content(s); err != nil || len(all) != 200 {
		t.Errorf("%d records, %v", len(all), err)
	}
}

func TestAStateIsCreatedWholeOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	limitFiles(t, 4096, func() {
		if s, err := Open(path); err == nil {
			s.Close()
			t.Error("created on a full disk")
		}
	})
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// limitFiles runs f while no file may grow beyond size bytes.
func limitFiles(t *testing.T, size uint64, f func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	small := old
	small.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	f()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
}

func TestAStateThatOthersMayReadIsRefused(t *testing.T) {
	path := filled(t)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	refused(t, path, ErrMode)
}

func TestOneProcessAtATime(t *testing.T) {
	path := filled(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	refused(t, path, store.ErrLocked)
}

func TestAFullDiskAcknowledgesNothingAndLosesNothing(t *testing.T) {
	path := filled(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	limitFiles(t, uint64(info.Size()), func() {
		err = s.Update(func(tx store.Tx) error { return tx.Put("b", "big", make([]byte, 8<<20)) })
	})
	if err == nil {
		t.Error("a write beyond the disk's end was acknowledged")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatalf("after the full disk: %v", err)
	}
	defer s.Close()
	_ = s.View(func(tx store.Tx) error {
		if _, err := tx.Get("b", "k"); err != nil {
			t.Errorf("an acknowledged record is lost: %v", err)
		}
		if _, err := tx.Get("b", "big"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the unacknowledged record is there: %v", err)
		}
		return nil
	})
}

// On a real full disk it is not the growing of the file that fails, but the
// writing into the hole.
func TestAFullFileSystemLosesNothing(t *testing.T) {
	testkit.RequireRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	full := 0
	for i := range 200 {
		key, value := fmt.Sprint(i), strings.Repeat("v", 5000)
		err := s.Update(func(tx store.Tx) error { return tx.Put("b", key, []byte(value)) })
		if err == nil {
			want[key] = value
		} else {
			full++
		}
	}
	if len(want) == 0 || full == 0 {
		t.Fatalf("%d written, %d refused: the disk is not small", len(want), full)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatalf("after the full disk: %v", err)
	}
	defer s.Close()
	if got, err := content(s); err != nil || !maps.Equal(got, want) {
		t.Errorf("%d records acknowledged, %d kept, %v", len(want), len(got), err)
	}
}

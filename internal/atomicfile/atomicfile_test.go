//go:build unix

package atomicfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestWriteReplacesWithTheAskedMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for i, perm := range []fs.FileMode{0o600, 0o644, 0o600} {
		want := bytes.Repeat([]byte{byte('a' + i)}, 10000>>i)
		if err := atomicfile.Write(path, want, perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read back %d bytes, %v; want %d", len(got), err, len(want))
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != perm {
			t.Fatalf("mode is %v, %v; want %v", info.Mode(), err, perm)
		}
	}
	onlyFile(t, path)
}

func TestFailedWriteLeavesTheOldFileAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := atomicfile.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A file larger than the limit fails in the middle of the write, as on a full disk.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := limit
	small.Cur = 4096
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	err := atomicfile.Write(path, make([]byte, 1<<20), 0o600)
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("Write = %v, want EFBIG", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("old file holds %q, %v", got, err)
	}
	onlyFile(t, path)

	folder := filepath.Join(t.TempDir(), "folder")
	if err := os.MkdirAll(filepath.Join(folder, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(folder, nil, 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	onlyFile(t, folder)
}

func TestReaderSeesOneWholeVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	version := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 1+i*997) }
	if err := atomicfile.Write(path, version(0), 0o600); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 25 {
				if err := atomicfile.Write(path, version(w*25+i), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		got, err := atomicfile.ReadPrivate(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || !bytes.Equal(got, version(int(got[0]))) {
			t.Fatalf("read a torn file of %d bytes", len(got))
		}
	}
	onlyFile(t, path)
}

func TestReadPrivateRefusesWhatOthersMayTouch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for mode := range fs.FileMode(0o1000) {
		if mode&0o400 == 0 {
			continue // a test run as nobody could not read these
		}
		os.Remove(path)
		if err := atomicfile.Write(path, []byte("marker"), mode); err != nil {
			t.Fatal(err)
		}
		got, err := atomicfile.ReadPrivate(path)
		if private := mode&^0o600 == 0; private && (err != nil || string(got) != "marker") {
			t.Errorf("mode %04o: %q, %v", mode, got, err)
		} else if !private && (!errors.Is(err, atomicfile.ErrNotPrivate) || got != nil) {
			t.Errorf("mode %04o: %q, %v; want ErrNotPrivate", mode, got, err)
		} else if err != nil && bytes.Contains([]byte(err.Error()), []byte("marker")) {
			t.Errorf("error tells the content: %v", err)
		}
	}
}

func TestReadPrivateRefusesAnotherUsersFile(t *testing.T) {
	testkit.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "secret")
	if err := atomicfile.Write(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.ReadPrivate(path); !errors.Is(err, atomicfile.ErrNotPrivate) {
		t.Errorf("ReadPrivate = %v, want ErrNotPrivate", err)
	}
}

func TestRootWorksOnTheFolderOfAServiceAndOnNoOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	for _, c := range []struct {
		folder, file int
		readable     bool
	}{{998, 998, true}, {998, 997, false}, {1000, 1000, false}, {0, 998, false}, {998, 0, true}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "record")
		if err := os.Chown(dir, c.folder, c.folder); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Write(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		var stat syscall.Stat_t
		if err := syscall.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		want := c.folder
		if want > 999 {
			want = 0 // a person's folder: what root writes there stays root's
		}
		if int(stat.Uid) != want || int(stat.Gid) != want {
			t.Errorf("in a folder of %d root's file belongs to %d:%d", c.folder, stat.Uid, stat.Gid)
		}
		if err := os.Chown(path, c.file, c.file); err != nil {
			t.Fatal(err)
		}
		if _, err := atomicfile.ReadPrivate(path); (err == nil) != c.readable {
			t.Errorf("folder of %d, file of %d: %v", c.folder, c.file, err)
		}
	}
}

func TestGiveHandsOverWhatRootMadeAndNothingElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a file away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 998, 997); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		prepare  func(path string) error
		uid, gid uint32
	}{
		"new":       {func(string) error { return nil }, 998, 997},
		"another's": {func(path string) error { return os.Chown(path, 1234, 1234) }, 1234, 1234},
		"linked":    {func(path string) error { return os.Link(path, path+"-too") }, 0, 0},
	} {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = c.prepare(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // it may be done again
			if err := atomicfile.Give(f); err != nil {
				t.Error(err)
			}
		}
		f.Close()
		var stat syscall.Stat_t
		if err := syscall.Stat(path, &stat); err != nil || stat.Uid != c.uid || stat.Gid != c.gid {
			t.Errorf("%s belongs to %d:%d, %v", name, stat.Uid, stat.Gid, err)
		}
	}
}

func TestReadPrivateRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := atomicfile.ReadPrivate(dir); !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("folder: %v, want ErrNotRegular", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.ReadPrivate(pipe); !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("pipe: %v, want ErrNotRegular (and no waiting)", err)
	}
	if _, err := atomicfile.ReadPrivate(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v, want ErrNotExist", err)
	}
	large := filepath.Join(dir, "large")
	if err := atomicfile.Write(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, atomicfile.MaxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.ReadPrivate(large); !errors.Is(err, atomicfile.ErrTooLarge) {
		t.Errorf("large: %v, want ErrTooLarge", err)
	}
}

// onlyFile fails when anything lies beside path.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("left behind: %v", entries)
	}
}

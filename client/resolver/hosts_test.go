package resolver

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func two() map[string]netip.Addr {
	return map[string]netip.Addr{
		"db.postern.internal":  netip.MustParseAddr("127.64.1.2"),
		"web.postern.internal": netip.MustParseAddr("127.64.1.3"),
	}
}

const ours = "# begin postern\n127.64.1.2 db.postern.internal\n127.64.1.3 web.postern.internal\n# end postern\n"

func TestOnlyOurLinesOfTheHostsFileChange(t *testing.T) {
	for name, test := range map[string][2]string{
		"none":          {"", ours},
		"others":        {"127.0.0.1 localhost\n", "127.0.0.1 localhost\n" + ours},
		"in the middle": {"a\n# begin postern\nold\n# end postern\nb\n", "a\n" + ours + "b\n"},
		"no end":        {"127.0.0.1 localhost", "127.0.0.1 localhost\n" + ours},
		"ours already":  {"x\n" + ours, "x\n" + ours},
	} {
		path := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(path, []byte(test[0]), 0o640); err != nil {
			t.Fatal(err)
		}
		if changed, err := WriteHosts(path, two()); err != nil || changed != (test[0] != test[1]) {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != test[1] {
			t.Errorf("%s: got %q, want %q", name, got, test[1])
		}
		if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if _, err := WriteHosts(path, nil); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(path); bytes.Contains(got, []byte("postern")) {
			t.Errorf("%s: left %q", name, got)
		}
	}
}

func TestAHalfBlockIsLeftAlone(t *testing.T) {
	if _, err := Put([]byte("a\n# begin postern\nb\n"), two()); !errors.Is(err, ErrHosts) {
		t.Errorf("got %v", err)
	}
}

func TestALinkedHostsFileStaysALink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links take an administrator there")
	}
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "hosts")
	os.WriteFile(target, []byte("a\n"), 0o644)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteHosts(path, two()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "a\n"+ours {
		t.Errorf("got %q", got)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func FuzzTheRestOfAHostsFileIsKept(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\r\n"))
	f.Add([]byte("a\n# begin postern\nb\n# end postern\nc"))
	f.Fuzz(func(t *testing.T, hosts []byte) {
		without, err := Put(hosts, nil)
		if err != nil {
			return
		}
		with, err := Put(hosts, two())
		if err != nil {
			t.Fatalf("%q: %v", hosts, err)
		}
		again, err := Put(with, nil)
		if err != nil {
			t.Fatalf("%q: %v", with, err)
		}
		// One end of line may stay behind that a last line did not have.
		if !bytes.Equal(again, without) && !bytes.Equal(bytes.TrimRight(again, "\r\n"), bytes.TrimRight(without, "\r\n")) {
			t.Errorf("%q became %q, want %q", hosts, again, without)
		}
	})
}

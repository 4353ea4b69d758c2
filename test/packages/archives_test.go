package packages

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// archives builds the client's archives for this machine and for Windows with
// another umask each time.
func archives(t *testing.T, umask string) string {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command("sh", "-c", "umask "+umask+"; exec configs/packages/archives.sh")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "DIST="+dist, "VERSION=v1.2.3",
		"PLATFORMS=linux/"+runtime.GOARCH+" windows/arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("archives.sh: %v\n%s", err, out)
	}
	return dist
}

func TestArchivesAreTheSameEachTimeAndRun(t *testing.T) {
	first, second := archives(t, "022"), archives(t, "077")
	sums, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(second, "SHA256SUMS"))
	if err != nil || !bytes.Equal(sums, again) {
		t.Errorf("%v: the archives differ:\n%s\n%s", err, sums, again)
	}
	linux := "postern_1.2.3_linux_" + runtime.GOARCH
	if n := strings.Count(string(sums), "\n"); n != 2 {
		t.Errorf("%d archives:\n%s", n, sums)
	}
	do := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = first
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return string(out)
	}
	do("sha256sum", "-c", "SHA256SUMS")
	do("tar", "-xzf", linux+".tar.gz")
	do("unzip", "-q", "postern_1.2.3_windows_arm64.zip")
	for _, file := range []string{
		linux + "/LICENSE", linux + "/README.md",
		"postern_1.2.3_windows_arm64/LICENSE", "postern_1.2.3_windows_arm64/postern.exe",
	} {
		if info, err := os.Stat(filepath.Join(first, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	want := fmt.Sprintf("linux/%s", runtime.GOARCH)
	if out := do(filepath.Join(first, linux, "postern"), "version"); !strings.Contains(out, "v1.2.3") ||
		!strings.Contains(out, want) {
		t.Errorf("version says %q", out)
	}
}

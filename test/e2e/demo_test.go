package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// newLab stands up a lab with freshly built binaries; it is gone when the test ends.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "pe") // a unix socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := lab.ForProcess("pe", binaries(t), filepath.Join(dir, "lab"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Up(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// binaries builds the commands, as they are shipped.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

func TestTheDemosPromisesHold(t *testing.T) {
	l := newLab(t)
	for _, s := range lab.Steps() {
		ok := t.Run(s.Name, func(t *testing.T) {
			evidence, err := s.Run(t.Context(), l)
			if err != nil {
				t.Fatalf("%v (%s)", err, evidence)
			}
			t.Log(evidence)
		})
		if !ok {
			return // what follows stands on it
		}
	}
}

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// newLab stands up a lab with freshly built binaries; it is gone when the test ends.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pe") // a unix socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := lab.ForProcess("pe", bin, filepath.Join(dir, "lab"))
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

// built is where all tests' programs are.
var built string

func TestMain(m *testing.M) {
	var err error
	if built, err = os.MkdirTemp("", "postern-e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(built)
	os.Exit(code)
}

// binaries builds the commands, as they are shipped, for all tests once.
var binaries = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "build", "-o", built, "./cmd/...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return built, nil
})

// scene is a lab in which others probe all along.
type scene interface {
	Log() string
	Close() error
}

// inOrder runs steps that stand on each other, up to the first that fails.
func inOrder(t *testing.T, l *lab.Lab, steps []lab.Step, s scene) {
	t.Helper()
	defer func() {
		if s == nil {
			return
		}
		t.Logf("what the probes met:\n%s", s.Log())
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range steps {
		ok := t.Run(s.Name, func(t *testing.T) {
			evidence, err := s.Run(t.Context(), l)
			if err != nil {
				t.Fatalf("%v (%s)", err, evidence)
			}
			t.Log(evidence)
		})
		if !ok {
			return
		}
	}
}

func TestTheDemosPromisesHold(t *testing.T) { inOrder(t, newLab(t), lab.Steps(), nil) }

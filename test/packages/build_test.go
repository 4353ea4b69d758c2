package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// dependOnTheTree looks at every file that goes into a package, so that go test does
// not take the result of another tree for this one's.
func dependOnTheTree(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "testdata"}, d.Name()) {
			return filepath.SkipDir
		}
		_, err = os.Stat(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// built are the folders with the packages of each version that a test asked for, in one
// that lives as long as the tests.
var built struct {
	sync.Mutex
	dir     string
	folders map[string]string
}

func TestMain(m *testing.M) {
	var err error
	if built.dir, err = os.MkdirTemp("", "postern-packages-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir) // as much of it as can be
	os.Exit(code)
}

// build makes the packages of a version, once for all tests, and returns those of that
// format.
func build(t *testing.T, version, format string) []string {
	t.Helper()
	dependOnTheTree(t)
	built.Lock()
	defer built.Unlock()
	dist, done := built.folders[version]
	if !done {
		dist = filepath.Join(built.dir, version)
		cmd := exec.Command("make", "-C", "../..", "packages", "VERSION=v"+version)
		cmd.Env = append(os.Environ(), "DIST="+dist, "PACKAGE_ARCHES="+runtime.GOARCH, "PACKAGE_VERSION=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make packages: %v\n%s", err, out)
		}
		if built.folders == nil {
			built.folders = make(map[string]string)
		}
		built.folders[version] = dist
	}
	found, err := filepath.Glob(filepath.Join(dist, "*."+format))
	if err != nil || len(found) != 3 {
		t.Fatalf("built %v, %v", found, err)
	}
	return found
}

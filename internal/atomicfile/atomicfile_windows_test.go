package atomicfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

func TestASecretIsPrivateInAnyFolderAndOtherFilesAreTheFolders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for _, want := range []string{"first", "second"} {
		if err := atomicfile.Write(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := atomicfile.ReadPrivate(path); err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := atomicfile.ReadPrivate(t.TempDir()); !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("a folder: %v", err)
	}
}

//go:build unix

package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

func TestAnIdentityThatOthersCouldReadIsRefused(t *testing.T) {
	e := join(t, controltest.New(t))
	if err := os.Chmod(e.Folder(), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := control.LoadIdentity(e.Folder()); !errors.Is(err, control.ErrWideFolder) {
		t.Errorf("wide folder: got %v", err)
	}
	os.Chmod(e.Folder(), 0o700)
	for _, name := range []string{"key.pem", "identity.json"} {
		path := filepath.Join(e.Folder(), name)
		os.Chmod(path, 0o640)
		if _, err := control.LoadIdentity(e.Folder()); !errors.Is(err, atomicfile.ErrNotPrivate) {
			t.Errorf("wide %s: got %v", name, err)
		}
		os.Chmod(path, 0o600)
	}
}

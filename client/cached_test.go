package client_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

func TestTheLastListOfServicesIsKeptAndPrivate(t *testing.T) {
	ctl := controltest.New(t)
	ctl.AddHost()
	token, err := ctl.Token(control.RoleClient).Encode()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "identity")
	c, err := client.Enroll(t.Context(), token, folder, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CachedServices(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before anybody asked: %v", err)
	}
	before := time.Now().Add(-time.Second)
	want, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.CachedServices(folder)
	if err != nil || len(got.Services.Services) != 1 || got.Services.Services[0] != want.Services[0] || got.User != want.User ||
		got.Asked.Before(before) || got.Asked.After(time.Now()) {
		t.Errorf("kept %+v, %v; want %+v", got, err, want)
	}
	path := filepath.Join(folder, "services.json")
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := client.CachedServices(folder); err == nil {
		t.Errorf("read %+v from a damaged file", list)
	}
	// A folder that cannot be written to is no reason to tell nothing.
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in-the-way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Services(t.Context()); err != nil || len(again.Services) != 1 {
		t.Errorf("got %+v, %v", again, err)
	}
}

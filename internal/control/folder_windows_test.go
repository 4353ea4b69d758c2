package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/windows"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

// setList replaces the access list of path.
func setList(t *testing.T, path, text string) {
	t.Helper()
	descriptor, err := windows.SecurityDescriptorFromString(text)
	if err != nil {
		t.Fatal(err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := windows.CreateFile(name, windows.WRITE_DAC, 0, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer windows.CloseHandle(h)
	if err := windows.SetKernelObjectSecurity(h,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, descriptor); err != nil {
		t.Fatal(err)
	}
}

func TestAnIdentityThatOthersCouldReadIsRefused(t *testing.T) {
	e := join(t, controltest.New(t))
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	mine := "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;" + user.User.Sid.String() + ")"
	setList(t, e.Folder(), mine+"(A;;FR;;;WD)")
	if _, err := control.LoadIdentity(e.Folder()); !errors.Is(err, control.ErrWideFolder) {
		t.Errorf("wide folder: got %v", err)
	}
	setList(t, e.Folder(), mine)
	for _, name := range []string{"key.pem", "identity.json"} {
		path := filepath.Join(e.Folder(), name)
		setList(t, path, mine+"(A;;FR;;;WD)")
		if _, err := control.LoadIdentity(e.Folder()); !errors.Is(err, atomicfile.ErrNotPrivate) {
			t.Errorf("wide %s: got %v", name, err)
		}
		setList(t, path, mine)
	}
	if _, err := control.LoadIdentity(e.Folder()); err != nil {
		t.Error(err)
	}
	wide := filepath.Join(t.TempDir(), "wide")
	if err := os.Mkdir(wide, 0o700); err != nil {
		t.Fatal(err)
	}
	setList(t, wide, mine+"(A;;FR;;;WD)")
	if err := control.SaveIdentity(wide, e); !errors.Is(err, control.ErrWideFolder) {
		t.Errorf("saved into a wide folder: %v", err)
	}
}

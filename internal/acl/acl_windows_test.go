package acl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/windows"
)

// grant replaces the access list of path by what the text says in Windows' own language
// for these.
func grant(t *testing.T, path, text string) {
	t.Helper()
	descriptor, err := windows.SecurityDescriptorFromString(text)
	if err == nil {
		err = set(path, descriptor)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFolderIsMadeForOneUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity")
	if err := MakeFolder(path); err != nil {
		t.Fatal(err)
	}
	if err := CheckFolder(path); err != nil {
		t.Error(err)
	}
	if err := MakeFolder(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if err := CheckFolder(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "secret")) // in a folder that is not private
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ProtectFile(f.Name()); err != nil {
		t.Error(err)
	}
	if err := CheckFile(f); err != nil {
		t.Error(err)
	}
}

func TestWhatOthersMayOpenIsFound(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "identity")
	if err := MakeFolder(folder); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "secret")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	user, err := currentUser()
	if err != nil {
		t.Fatal(err)
	}
	grant(t, folder, "D:P(A;OICI;FA;;;"+user.String()+")(A;;FR;;;WD)")
	if err := CheckFolder(folder); !errors.Is(err, ErrWide) {
		t.Errorf("a folder that everybody may read: %v", err)
	}
	grant(t, path, "D:P(A;;FA;;;"+user.String()+")(A;;FR;;;WD)")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := CheckFile(f); !errors.Is(err, ErrWide) {
		t.Errorf("a file that everybody may read: %v", err)
	}
}

func TestAccessListsAreJudgedEntryByEntry(t *testing.T) {
	user, err := currentUser()
	if err != nil {
		t.Fatal(err)
	}
	mine := "O:" + user.String()
	for text, wide := range map[string]bool{
		mine + "D:(A;;FA;;;" + user.String() + ")": false,
		mine + "D:(A;;FA;;;SY)(A;;FA;;;BA)":        false,
		mine + "D:(A;OICIIO;FA;;;CO)(A;;FA;;;OW)":  false,
		"O:BAD:(A;;FA;;;SY)":                       false,
		mine + "D:":                                false, // nobody at all
		mine + "D:(D;;FA;;;WD)(A;;FA;;;SY)":        false,
		mine + "D:(A;;0x120080;;;WD)":              false, // attributes, the list itself
		mine + "D:(A;;FR;;;WD)":                    true,
		mine + "D:(A;;FR;;;BU)":                    true,
		mine + "D:(A;;FW;;;AU)":                    true,
		mine + "D:(A;;FA;;;SY)(A;;0x1;;;WD)":       true, // the last of many
		mine + "D:(A;OICIIO;FR;;;WD)":              true, // what is made in it
		mine + "D:(A;;WD;;;S-1-5-21-1-2-3-1001)":   true, // may change the list
		"O:S-1-5-21-1-2-3-1001D:(A;;FA;;;SY)":      true, // another user's
		"O:BUD:(A;;FA;;;SY)":                       true,
		mine:                                       true, // no list: all is allowed
	} {
		descriptor, err := windows.SecurityDescriptorFromString(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := check(descriptor); errors.Is(err, ErrWide) != wide || !wide && err != nil {
			t.Errorf("%s: %v, want wide %v", text, err, wide)
		}
	}
}

package profile_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/profile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

// person has a configuration folder.
type person struct {
	t      *testing.T
	folder string
	profile.Store
}

func newPerson(t *testing.T, enrolled ...string) *person {
	folder := filepath.Join(t.TempDir(), "config", "postern")
	p := &person{t: t, folder: folder, Store: profile.In(folder)}
	for _, name := range enrolled {
		p.enroll(name)
	}
	return p
}

func (p *person) enroll(name string) {
	p.t.Helper()
	token, err := controltest.New(p.t).Token(control.RoleClient).Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	folder, err := p.Folder(name)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := client.Enroll(p.t.Context(), token, folder, name+"-device"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) want(current string, all ...string) {
	p.t.Helper()
	got, err := p.Current()
	names, errList := p.List()
	if err != nil || errList != nil || got != current || !slices.Equal(names, all) {
		p.t.Errorf("%q of %v is in use (%v, %v), want %q of %v", got, names, err, errList, current, all)
	}
	for _, name := range names {
		folder, _ := p.Folder(name)
		if _, err := client.Open(folder); err != nil {
			p.t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheDefaultIsTheFolderItself(t *testing.T) {
	p := newPerson(t)
	if folder, err := p.Folder(profile.Default); folder != p.folder || err != nil {
		t.Errorf("the default is in %s, %v", folder, err)
	}
	p.want(profile.Default)
	if _, err := os.Stat(p.folder); err == nil {
		t.Error("looking made the folder")
	}
	p.enroll(profile.Default)
	p.want(profile.Default, profile.Default)
}

func TestOneOfSeveralIsInUse(t *testing.T) {
	p := newPerson(t, "work", profile.Default, "home")
	p.want(profile.Default, profile.Default, "home", "work")
	if err := p.Use("work"); err != nil {
		t.Fatal(err)
	}
	p.want("work", profile.Default, "home", "work")
	if err := p.Use("nosuch"); !errors.Is(err, profile.ErrNone) {
		t.Errorf("one that is not there: %v", err)
	}
	p.want("work", profile.Default, "home", "work")
	if err := p.Use(profile.Default); err != nil {
		t.Fatal(err)
	}
	p.want(profile.Default, profile.Default, "home", "work")
	if err := p.Use(profile.Default); err != nil {
		t.Errorf("the default twice: %v", err)
	}
}

func TestRenamingKeepsItInUseAndOverwritesNothing(t *testing.T) {
	p := newPerson(t, "work", "home")
	if err := p.Use("work"); err != nil {
		t.Fatal(err)
	}
	if err := p.Rename("work", "home"); !errors.Is(err, profile.ErrExists) {
		t.Errorf("onto another: %v", err)
	}
	p.want("work", "home", "work")
	if err := p.Rename("work", "acme"); err != nil {
		t.Fatal(err)
	}
	p.want("acme", "acme", "home")
	if err := p.Rename("home", "flat"); err != nil {
		t.Fatal(err)
	}
	p.want("acme", "acme", "flat")
	for want, names := range map[error][2]string{
		profile.ErrNone: {"work", "x"}, profile.ErrDefault: {"acme", profile.Default}, profile.ErrName: {"acme", "../x"},
	} {
		if err := p.Rename(names[0], names[1]); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", names, err, want)
		}
	}
	if err := p.Rename(profile.Default, "x"); !errors.Is(err, profile.ErrDefault) {
		t.Errorf("the default: %v", err)
	}
}

func TestRemovingLeavesNothingOfItAndAllOfTheOthers(t *testing.T) {
	p := newPerson(t, profile.Default, "home", "work")
	if err := p.Use("work"); err != nil {
		t.Fatal(err)
	}
	folder, _ := p.Folder("work")
	if err := os.WriteFile(filepath.Join(folder, "services.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove("work"); err != nil {
		t.Fatal(err)
	}
	p.want(profile.Default, profile.Default, "home")
	if _, err := os.Lstat(folder); err == nil {
		t.Error("its folder is there still")
	}
	if err := p.Remove(profile.Default); err != nil {
		t.Fatal(err)
	}
	p.want(profile.Default, "home")
	entries, err := os.ReadDir(p.folder)
	if err != nil || len(entries) != 1 || entries[0].Name() != "profiles" {
		t.Errorf("the default left %v, %v", entries, err)
	}
	for _, name := range []string{"work", profile.Default} {
		if err := p.Remove(name); !errors.Is(err, profile.ErrNone) {
			t.Errorf("%s, twice: %v", name, err)
		}
	}
}

// A key without its identity.json is what a removal leaves that was cut off by a crash.
func TestWhatAnInterruptedRemovalLeftCanBeRemoved(t *testing.T) {
	p := newPerson(t, "work")
	folder, _ := p.Folder("work")
	if err := os.Remove(filepath.Join(folder, "identity.json")); err != nil {
		t.Fatal(err)
	}
	p.want(profile.Default)
	if err := p.Remove("work"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(folder); err == nil {
		t.Error("the key is there still")
	}
}

func TestNoNameLeadsOutOfTheFolder(t *testing.T) {
	p := newPerson(t)
	for _, name := range []string{
		"", ".", "..", "../x", "a/b", `a\b`, "/etc", "-x", ".x", "x.", "Work", "a b", "é", "a\x00b", "a\nb", "a:b", "$(id)",
		strings.Repeat("a", 64),
	} {
		if folder, err := p.Folder(name); !errors.Is(err, profile.ErrName) || folder != "" {
			t.Errorf("%q became %s, %v", name, folder, err)
		}
		for what, err := range map[string]error{
			"use": p.Use(name), "remove": p.Remove(name), "rename": p.Rename(name, "x"), "rename to": p.Rename("x", name),
		} {
			if !errors.Is(err, profile.ErrName) {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	for _, name := range []string{"a", "0", "work-2.example", strings.Repeat("a", 63)} {
		if err := profile.CheckName(name); err != nil {
			t.Error(err)
		}
	}
}

func TestAForeignOrDamagedChoiceIsRefused(t *testing.T) {
	p := newPerson(t, "work")
	path := filepath.Join(p.folder, "profile")
	for _, text := range []string{"", "../../etc\n", "work\nhome\n", "\x1b[2J", strings.Repeat("a", 100_000)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := p.Current()
		if !errors.Is(err, profile.ErrName) || got != "" || strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > 1000 {
			t.Errorf("%.20q: %q, %v", text, got, err)
		}
	}
	if err := p.Use("work"); err != nil {
		t.Fatal(err)
	}
	p.want("work", "work")
	if runtime.GOOS == "windows" {
		return // no modes there
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Current(); err == nil {
		t.Errorf("a choice that anybody could have made: %q", got)
	}
}

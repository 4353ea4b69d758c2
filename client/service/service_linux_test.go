package service

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func sample() Definition {
	return Definition{Program: "/opt/My Tools/100%/postern", Args: []string{"--identity", `/home/a "b" $c \d/id`, "up"}}
}

// systemd itself says what it makes of the unit.
func TestSystemdTakesTheUnit(t *testing.T) {
	d := sample()
	dir := t.TempDir()
	d.Program = filepath.Join(dir, "My Tools 100%", "postern")
	if err := os.MkdirAll(filepath.Dir(d.Program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := d.Systemd()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "postern.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--user", "--man=no", path)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "postern.service") {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
	// A program that is not there must be complained about: else nothing was checked.
	os.Remove(d.Program)
	cmd = exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--user", "--man=no", path)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), d.Program) {
		t.Errorf("the program's path is read wrongly: %s\n%s", out, text)
	}
}

func TestTheUnitIsWrittenAndTakenAway(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	path, text, err := Text(sample())
	if err != nil || !strings.Contains(text, `ExecStart="/opt/My Tools/100%%/postern" "--identity" "/home/a \"b\" $$c \\d/id" "up"`) {
		t.Fatalf("%v: %s", err, text)
	}
	if err := Uninstall(t.Context()); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("before: %v", err)
	}
	if _, err := Status(t.Context()); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("before: %v", err)
	}
	if err := Install(t.Context(), sample(), false); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("%v: %s", err, got)
	}
	if err := Uninstall(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the unit is left")
	}
}

func TestThePropertyListIsXMLWithTheWords(t *testing.T) {
	d := Definition{Program: "/Applications/a & b/postern", Args: []string{"--identity", "/Users/<me>/id", "up"}}
	text, err := d.Launchd("/Users/<me>/Library/Logs/postern.log")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for r := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := r.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if data, ok := token.(xml.CharData); ok && strings.TrimSpace(string(data)) != "" {
			words = append(words, string(data))
		}
	}
	got := strings.Join(words, "|")
	want := "Label|internal.postern.up|ProgramArguments|/Applications/a & b/postern|--identity|/Users/<me>/id|up|RunAtLoad"
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "StandardErrorPath|/Users/<me>/Library/Logs/postern.log") {
		t.Errorf("got %s", got)
	}
}

func TestWhatCannotBeOneLineIsRefused(t *testing.T) {
	for _, d := range []Definition{
		{Program: "postern"}, {Program: "/a\nExecStartPre=/bin/evil"}, {Program: "/a", Args: []string{"x\ry"}},
	} {
		if _, err := d.Systemd(); !errors.Is(err, ErrPath) {
			t.Errorf("%q: %v", d, err)
		}
		if _, err := d.Launchd("/l"); !errors.Is(err, ErrPath) {
			t.Errorf("%q: %v", d, err)
		}
	}
}

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// home gives the command a home of its own, with nothing installed.
func home(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"HOME", "USERPROFILE", "XDG_CONFIG_HOME", "AppData", "LocalAppData"} {
		t.Setenv(name, dir)
	}
}

func TestServicePrintsItsFileAndInstallsNothing(t *testing.T) {
	home(t)
	m := newMachine(t)
	m.folder = "relative"
	r := m.run("", "--timeout", "7s", "service", "install", "--print", "--", "--some", "option of up")
	r.want(t, exitOK)
	abs, err := filepath.Abs("relative")
	if err != nil {
		t.Fatal(err)
	}
	rest := r.out
	for _, want := range []string{"--identity", filepath.Base(abs), "--timeout", "7s", "up", "--some", "option of up"} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("want %q in this place of:\n%s", want, r.out)
		}
		rest = after
	}
	if !strings.Contains(r.out, filepath.Dir(abs)) {
		t.Errorf("the identity's folder is relative to where nobody knows:\n%s", r.out)
	}
	r = m.run("", "service", "status", "--json")
	r.want(t, exitOK)
	if !strings.Contains(r.out, `"installed": false`) || !strings.Contains(r.out, `"running": false`) {
		t.Errorf("printed %q", r.out)
	}
	m.run("", "service", "start").want(t, exitFailed, "not installed", "hint: postern service install")
	for _, args := range [][]string{{"service"}, {"service", "fly"}, {"service", "stop", "x"}, {"service", "status", "--no"}} {
		m.run("", args...).want(t, exitUsage, "hint: ")
	}
}

func TestWhatRunsInTheBackgroundTriesAgainAndKeepsALog(t *testing.T) {
	m := newMachine(t)
	log := filepath.Join(t.TempDir(), "up.log")
	if err := os.WriteFile(log, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	// What stays as it is is not tried again.
	m.run("", "service", "run", "--log", log, "--", "nonsense").want(t, exitUsage)
	m.run("", "service", "run", "--log", log, "--", "services").want(t, exitNotEnrolled)
	m.run("", "service", "run", "--log", log, "--", "version").want(t, exitOK)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, want := range []string{"postern: no such command: nonsense", "postern: ", "hint: get an invitation", runtime.GOARCH} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("want %q in this place of the log:\n%q", want, text[:min(len(text), 2000)])
		}
		rest = after
	}
	// The command line is read as any other one.
	m.run("", "service", "run", "--log", log, "--", "profile", "use", "x", "--no-such-option").want(t, exitUsage)
	if text, _ := os.ReadFile(log); !strings.Contains(string(text), "no-such-option") {
		t.Errorf("an option behind an argument was taken for an argument:\n%q", text[max(0, len(text)-300):])
	}
	// Everything else is.
	failing := m.command("service", "run", "--log", log, "--", "emergency", "--key", "/nonexistent")
	if err := failing.Start(); err != nil {
		t.Fatal(err)
	}
	defer failing.Wait()
	defer failing.Process.Kill()
	testkit.Eventually(t, 30*time.Second, "it fails twice", func() bool {
		text, _ := os.ReadFile(log)
		return strings.Count(string(text), "read emergency key") >= 2
	})
}

func TestWhatRunsInTheBackgroundHasTheProfileThatItWasInstalledWith(t *testing.T) {
	home(t)
	m := newMachine(t)
	m.folder = ""
	log := filepath.Join(t.TempDir(), "up.log")
	m.run("", "--profile", "work", "service", "run", "--log", log, "--", "services").want(t, exitNotEnrolled)
	if text, _ := os.ReadFile(log); !strings.Contains(string(text), filepath.Join("profiles", "work")) {
		t.Errorf("it looked elsewhere: %s", text)
	}
}

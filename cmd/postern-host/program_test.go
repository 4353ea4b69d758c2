package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ran is what a command line did.
type ran struct {
	code      int
	out, talk string
}

func command(t *testing.T, in string, args ...string) ran {
	t.Helper()
	var out, talk bytes.Buffer
	p := program{in: strings.NewReader(in), out: &out, talk: &talk}
	code := p.report(p.run(t.Context(), append([]string{"postern-host"}, args...)))
	return ran{code, out.String(), talk.String()}
}

// configuration writes a file whose folders do not exist yet.
func configuration(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "host.toml")
	text := "state = \"" + dir + "/state\"\nstatus_socket = \"" + dir + "/run/status.sock\"\n" + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachFailureHasItsExitCodeAndPrintsNoData(t *testing.T) {
	good := configuration(t, "[tunnel]\ncapture = false\n[firewall]\nbackend = \"none\"\n")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such command":   {[]string{"frobnicate"}, exitUsage, "no such command: frobnicate"},
		"no such option":    {[]string{"serve", "--frobnicate"}, exitUsage, "frobnicate"},
		"an extra argument": {[]string{"serve", "--config", good, "now"}, exitUsage, `"now"`},
		"no such file":      {[]string{"serve", "--config", "/nonexistent.toml"}, exitUsage, "/nonexist"},
		"unknown key": {[]string{"serve", "--config", configuration(t, "tunel = 1\n")}, exitUsage,
			"tunel"},
		"wrong type": {[]string{"serve", "--check", "--config", configuration(t, "log_level = 3\n")},
			exitUsage, ":3:"},
		"contradiction": {[]string{"serve", "--check", "--config",
			configuration(t, "[tunnel]\ncapture = false\ninterfaces = [\"eth0\"]\n")}, exitUsage,
			"tunnel.interfaces"},
		"metrics for everybody": {[]string{"serve", "--check", "--config",
			configuration(t, "metrics = \"0.0.0.0:9464\"\n")}, exitUsage, "loopback"},
		"metrics nowhere": {[]string{"serve", "--check", "--config",
			configuration(t, "metrics = \"127.0.0.1\"\n")}, exitUsage, "metrics"},
		"not enrolled": {[]string{"serve", "--config", good}, exitNotEnroled, "not enrolled"},
		"not running":  {[]string{"status", "--config", good}, exitNotRunning, "no agent answers"},
		"no token":     {[]string{"enroll", "--config", good}, exitUsage, "TOKEN"},
		"which shell":  {[]string{"completion", "tcsh"}, exitUsage, "tcsh"},
	} {
		t.Run(name, func(t *testing.T) {
			got := command(t, "", c.args...)
			if got.code != c.code || !strings.Contains(got.talk, c.says) {
				t.Errorf("code %d, want %d; said:\n%s", got.code, c.code, got.talk)
			}
			if got.out != "" {
				t.Errorf("wrote data: %q", got.out)
			}
			if !strings.HasPrefix(got.talk, "postern-host: ") || !strings.Contains(got.talk, "hint: ") {
				t.Errorf("talk without its form:\n%s", got.talk)
			}
		})
	}
}

func TestATokenIsNeverRepeated(t *testing.T) {
	const token = "postern-join:U0VDUkVUU0VDUkVU"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	path := configuration(t, "")
	for _, c := range []struct{ in, arg string }{{"", token}, {"", "@" + file}, {token, "-"}} {
		got := command(t, c.in, "enroll", "--config", path, c.arg)
		if got.code != exitUsage || !strings.Contains(got.talk, "not a join token") {
			t.Errorf("%s: code %d: %s", c.arg, got.code, got.talk)
		}
		if strings.Contains(got.talk+got.out, "U0VDUkVU") {
			t.Errorf("the token is in %q", got.talk+got.out)
		}
	}
}

func TestCheckPrintsAConfigurationThatReadsBackAndTouchesNothing(t *testing.T) {
	path := configuration(t, "[[keep]]\nsource = \"192.0.2.0/24\"\nports = [\"tcp/22\"]\n")
	first := command(t, "", "serve", "--check", "--config", path)
	if first.code != exitOK || !strings.Contains(first.out, `ports = ["tcp/22"]`) {
		t.Fatalf("code %d: %s%s", first.code, first.out, first.talk)
	}
	again := filepath.Join(t.TempDir(), "again.toml")
	if err := os.WriteFile(again, []byte(first.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if second := command(t, "", "serve", "--check", "--config", again); second.out != first.out {
		t.Errorf("read back:\n%s\nwant:\n%s", second.out, first.out)
	}
	for _, made := range []string{"state", "run"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), made)); !os.IsNotExist(err) {
			t.Errorf("%s was made", made)
		}
	}
}

func TestHelpOfEachCommandEndsWithAnExample(t *testing.T) {
	for _, name := range []string{
		"enroll", "protect", "confirm", "unprotect", "serve", "status", "doctor", "emergency", "firewall", "version", "completion",
	} {
		got := command(t, "", name, "--help")
		if got.code != exitOK || !strings.Contains(got.out, "postern-host "+name) {
			t.Errorf("%s --help: code %d:\n%s", name, got.code, got.out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := command(t, "", "completion", shell); got.code != exitOK || got.out == "" {
			t.Errorf("completion %s: code %d", shell, got.code)
		}
	}
}

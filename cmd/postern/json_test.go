package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/spa"
)

// withoutJSON are commands that print no data of ours, and why.
var withoutJSON = map[string]string{
	"ssh": "it is ssh", "agent": "it serves", "man": "pages", "service run": "its output is another command's",
	"completion bash": "a script", "completion zsh": "a script", "completion fish": "a script",
}

// leaves calls f for each command that does something, by its path.
func leaves(path []string, commands []*cli.Command, f func(path []string, c *cli.Command)) {
	for _, c := range commands {
		at := append(slices.Clone(path), c.Name)
		if len(c.Subcommands) == 0 || c.Name == "agent" {
			f(at, c)
		}
		leaves(at, c.Subcommands, f)
	}
}

func TestWhateverPrintsDataPrintsItAsJSONToo(t *testing.T) {
	home(t)
	m := newMachine(t)
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc"), 0o755)
	token := filepath.Join(t.TempDir(), "token")
	os.WriteFile(token, []byte(m.token()), 0o600)
	lines := []string{
		"enroll --profile work @" + token, "services", "knock echo", "status --local", "doctor --no-probe", "version",
		"profile list", "profile show work", "profile use work", "profile rename work acme",
		"ssh-config", "ssh-config --install", "ssh-config --uninstall", "service install --print", "service status", "agent stop",
		"up --root " + root + " --install-hosts db", "up --root " + root + " --uninstall-hosts", "up --root " + root + " --uninstall-resolver",
		"profile remove --yes acme",
	}
	m.folder = "" // profiles are what is tested
	for _, line := range lines {
		r := m.run("", append(strings.Fields(line), "--json")...)
		if r.code != exitOK || !json.Valid([]byte(r.out)) {
			t.Errorf("%s: exit code %d, printed %q, said %q", line, r.code, r.out, r.talk)
		}
	}
	// These go on until they are ended, or need more: other tests have them.
	elsewhere := []string{"connect", "proxy", "exec", "emergency", "service uninstall", "service start", "service stop"}
	leaves(nil, (program{}).app().Commands, func(path []string, c *cli.Command) {
		name := strings.Join(path, " ")
		has := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == "json" })
		if _, none := withoutJSON[name]; has == none {
			t.Errorf("%s has --json: %v", name, has)
		}
		tried := slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line+" ", name+" ") })
		if has && !tried && !slices.Contains(elsewhere, name) {
			t.Errorf("%s --json is not tried here", name)
		}
	})
}

func TestAnErrorIsJSONWhereDataWouldBe(t *testing.T) {
	m := newMachine(t)
	failed := func(code int, kind string, args ...string) {
		t.Helper()
		r := m.run("", append(args, "--json")...)
		lines := strings.Split(strings.TrimSpace(r.talk), "\n")
		var got errorJSON
		err := json.Unmarshal([]byte(lines[len(lines)-1]), &got)
		if err != nil || r.code != code || got.Code != code || got.Kind != kind || got.Error == "" || len(got.Hints) == 0 {
			t.Errorf("%v: exit code %d, %+v, %v; it said %q", args, r.code, got, err, r.talk)
		}
	}
	failed(exitNotEnrolled, "not-enrolled", "services")
	failed(exitUsage, "usage", "knock")
	m.enrolled()
	m.c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted} })
	failed(exitDenied, "denied", "knock", "echo")
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	failed(exitNoAnswer, "no-answer", "--timeout", "200ms", "knock", "echo")
	m.run("", "--timeout", "200ms", "knock", "echo").want(t, exitNoAnswer, "postern: ", "hint: ", "postern doctor finds out which\n")
}

func TestAnotherProgramsOptionIsNotOurs(t *testing.T) {
	for line, want := range map[string]bool{
		"services --json": true, "--timeout 1s knock web --json": true, "profile list -json": true, "knock --json=false web": false,
		"knock web": false, "knock -- --json": false, "exec ls --json": false, "exec -- ls --json": false, "ssh web --json": false,
		"nosuch --json": false, "services --profile --json": false, "": false,
	} {
		app := (program{}).app()
		args := cmdline.Reorder(app, append([]string{"postern"}, strings.Fields(line)...))
		if got := cmdline.Given(app, args, "json"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestWhereNobodyAnswersTheDoctorIsTheLastWord(t *testing.T) {
	m := newMachine(t).enrolled()
	last := func(args ...string) {
		t.Helper()
		r := m.run("", append([]string{"--timeout", "200ms"}, args...)...)
		lines := strings.Split(strings.TrimSpace(r.talk), "\n")
		if r.code != exitNoAnswer || !strings.HasPrefix(lines[len(lines)-1], "hint: postern doctor") {
			t.Errorf("%v: exit code %d, it said\n%s", args, r.code, r.talk)
		}
	}
	m.h.Stop()
	last("connect", "--stdio", "echo")
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1 << 20 })
	commands := [][]string{{"services"}, {"status"}, {"knock", "echo"}, {"connect", "--stdio", "echo"}}
	for _, args := range commands {
		last(args...)
	}
	m.withAgent()
	last("connect", "--stdio", "echo")
}

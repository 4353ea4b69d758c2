package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/qrcode"
	"github.com/postern-sdp/postern/internal/testkit"
)

// asProgram makes the test binary be the command itself.
const asProgram = "POSTERN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// shell runs commands against one controller's files.
type shell struct {
	t      *testing.T
	dir    string
	config string
	daemon *os.Process
}

func newShell(t *testing.T) *shell {
	dir := t.TempDir()
	return &shell{t: t, dir: dir, config: filepath.Join(dir, "etc", "controller.toml")}
}

func (s *shell) run(args ...string) (code int, out, talk string) {
	s.t.Helper()
	var o, e bytes.Buffer
	all := append([]string{program, "--config", s.config}, args...)
	code = run(s.t.Context(), all, streams{strings.NewReader(""), &o, &e})
	return code, o.String(), e.String()
}

// ok runs a command that must succeed and returns its data.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	code, out, talk := s.run(args...)
	if code != exitOK {
		s.t.Fatalf("%v: exit code %d: %s", args, code, talk)
	}
	return out
}

// fails runs a command that must fail with that code: no data, and a hint last.
func (s *shell) fails(want int, args ...string) (talk string) {
	s.t.Helper()
	code, out, talk := s.run(args...)
	if code != want || out != "" {
		s.t.Errorf("%v: exit code %d, stdout %q, want %d and nothing: %s", args, code, out, want, talk)
	}
	lines := strings.Split(strings.TrimSpace(talk), "\n")
	if !strings.HasPrefix(talk, program+": ") || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
		s.t.Errorf("%v: stderr does not end with a hint:\n%s", args, talk)
	}
	return talk
}

// serve makes a controller and runs it by the command, as a user would.
func (s *shell) serve() {
	s.t.Helper()
	s.ok("init", "--name", "gate.test", "--advertise", "gate.test:4040", "--state", filepath.Join(s.dir, "state"))
	text, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	socket := "admin_socket = \"" + filepath.Join(s.dir, "a.sock") + "\"\n"
	policy := filepath.Join(s.dir, "policy.toml")
	s.policy("[[grant]]\nusers = [\"bob\"]\nservices = [\"*\"]\n")
	socket += "policy = \"" + policy + "\"\n"
	more := strings.Replace(string(text), "[knock]", socket+"[knock]\nlisten = \"127.0.0.1:0\"", 1) +
		"[control]\nlisten = \"127.0.0.1:0\"\ncapture = false\n[firewall]\nbackend = \"none\"\n"
	if err := os.WriteFile(s.config, []byte(more), 0o600); err != nil {
		s.t.Fatal(err)
	}
	// A process of its own, as it is meant to be: the library keeps global state.
	cmd := exec.Command(os.Args[0], "--config", s.config, "serve")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.daemon = cmd.Process
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("serve ended with %v: %s", err, log.String())
		}
	})
	testkit.Eventually(s.t, 20*time.Second, "the controller to answer", func() bool {
		code, _, _ := s.run("status")
		return code == exitOK
	})
}

func (s *shell) policy(text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "policy.toml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestHangupReadsThePolicyAgainAndAFaultChangesNothing(t *testing.T) {
	s := newShell(t)
	s.serve()
	s.policy("[[grant]]\nusers = [\"bob\", \"eve\"]\nservices = [\"*\"]\n")
	if err := s.daemon.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the new policy to be in force", func() bool {
		return strings.Contains(s.ok("grant", "list"), "bob,eve")
	})
	s.policy("[[grant]]\nuser = 7\n")
	if talk := s.fails(exitUsage, "policy", "reload"); !strings.Contains(talk, "policy.toml:2") {
		t.Errorf("the fault is not placed: %s", talk)
	}
	if !strings.Contains(s.ok("grant", "list"), "bob,eve") {
		t.Error("a broken policy file replaced the old policy")
	}
}

func TestAnAdministratorsDay(t *testing.T) {
	s := newShell(t)
	s.serve()
	text := strings.TrimSpace(s.ok("token", "create", "--role", "client", "--user", "ana", "--name", "laptop"))
	token, err := control.ParseJoinToken(text)
	if err != nil {
		t.Fatalf("stdout is not the token alone: %v", err)
	}
	if token.Controller != "gate.test" || !slices.Equal(token.Addresses, []string{"gate.test:4040"}) {
		t.Errorf("the token leads to %s at %v", token.Controller, token.Addresses)
	}
	if strings.Contains(s.ok("token", "list", "--json"), text) {
		t.Error("token list shows the secret")
	}
	var tokens []api.TokenInfo
	decode(t, s.ok("token", "list", "--json"), &tokens)
	if len(tokens) != 1 || tokens[0].ID != token.Token || tokens[0].Used {
		t.Errorf("token list: %+v", tokens)
	}
	s.ok("token", "revoke", token.Token.String())
	s.invitations()
	s.ok("grant", "add", "ana", "ssh", "--for", "1h")
	var grants []api.GrantInfo
	decode(t, s.ok("grant", "list", "--json"), &grants)
	if len(grants) != 2 || time.Duration(grants[1].For) != time.Hour {
		t.Errorf("grant list: %+v", grants)
	}
	if table := s.ok("grant", "list"); !regexp.MustCompile(`ana +ssh +1h0m0s +command`).MatchString(table) {
		t.Errorf("grant list prints %q", table)
	}
	s.ok("grant", "remove", "ana", "ssh")
	s.ok("policy", "reload")
	for _, list := range []string{"device", "host", "service", "session", "token", "emergency"} {
		if out := s.ok(list, "list", "--json"); strings.TrimSpace(out) != "[]" {
			t.Errorf("%s list --json of nothing prints %q, want []", list, out)
		}
		if out := s.ok(list, "list"); out != "" {
			t.Errorf("%s list of nothing prints %q", list, out)
		}
	}
	var status api.Status
	decode(t, s.ok("status", "--json"), &status)
	if status.Name != "gate.test" || status.Version == "" {
		t.Errorf("status: %+v", status)
	}
	s.refusals()
}

// invitations makes tokens in each form, and withdraws them.
func (s *shell) invitations() {
	s.t.Helper()
	create := func(more ...string) string {
		return s.ok(append([]string{"token", "create", "--role", "client", "--user", "ana"}, more...)...)
	}
	revoke := func(text string) {
		token, err := control.ParseJoinToken(text)
		if err != nil {
			s.t.Errorf("%q: %v", text, err)
		}
		s.ok("token", "revoke", token.Token.String())
	}
	link := create("--invitation")
	if !strings.HasPrefix(link, "postern://gate.test/") {
		s.t.Errorf("--invitation printed %q", link)
	}
	revoke(link)
	lines := strings.Split(strings.TrimSpace(create("--qr")), "\n")
	last := lines[len(lines)-1]
	want, err := qrcode.Draw(last, false)
	if err != nil || strings.Join(lines[:len(lines)-1], "\n")+"\n" != want {
		s.t.Errorf("--qr did not draw %q: %v", last, err)
	}
	revoke(last)
	var both api.TokenCreated
	decode(s.t, create("--json"), &both)
	text, errText := control.ParseJoinToken(both.Text)
	invited, errLink := control.ParseJoinToken(both.Invitation)
	if errText != nil || errLink != nil || text.Token != invited.Token || !text.Knock.Equal(invited.Knock) {
		s.t.Errorf("two forms of two tokens: %v, %v", errText, errLink)
	}
	revoke(both.Text)
	s.fails(exitUsage, "token", "create", "--role", "client", "--user", "ana", "--qr", "--json")
}

func (s *shell) refusals() {
	s.t.Helper()
	id := strings.Repeat("0", 31) + "1"
	s.fails(exitNotFound, "session", "revoke", id)
	s.fails(exitNotFound, "token", "revoke", id)
	s.fails(exitNotFound, "device", "revoke", "nosuch")
	s.fails(exitNotFound, "host", "remove", "nosuch")
	s.fails(exitNotFound, "service", "add", "ssh", "--host", "nosuch", "--target", "127.0.0.1:22")
	s.fails(exitNotFound, "service", "remove", "nosuch")
	s.fails(exitNotFound, "grant", "remove", "nobody", "ssh")
	s.fails(exitUsage, "grant", "add", "Ana Maria", "ssh")
	s.fails(exitUsage, "token", "create", "--role", "client", "--user", "ana", "--expires", "1s")
	s.fails(exitConflict, "serve") // one runs here
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not JSON: %v: %s", err, text)
	}
}

func TestWrongCommandLinesAreToldApart(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"nosuch"}, {"token", "nosuch"}, {"status", "extra"}, {"--nosuch"}, {"token", "list", "--nosuch"},
		{"token", "create"}, {"token", "create", "--role", "king"}, {"token", "create", "--role", "client"},
		{"token", "create", "--role", "host", "--user", "ana"}, {"session", "revoke"}, {"session", "revoke", "x"},
		{"service", "add", "ssh"}, {"grant", "add", "ana"}, {"init"}, {"init", "--name", "No Name"},
		{"completion", "tcsh"},
	} {
		s.fails(exitUsage, args...)
	}
	if _, err := os.Stat(s.config); err == nil {
		t.Error("a command that failed wrote a configuration")
	}
}

func TestNobodyServingIsUnavailable(t *testing.T) {
	s := newShell(t)
	s.fails(exitUnavailable, "--socket", filepath.Join(s.dir, "none"), "status")
}

func TestABrokenConfigurationIsAUsageError(t *testing.T) {
	s := newShell(t)
	if err := os.MkdirAll(filepath.Dir(s.config), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.config, []byte("name = \"a\"\nnmae = \"b\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"serve", "init"} {
		if talk := s.fails(exitUsage, command); !strings.Contains(talk, "controller.toml:2:1: unknown key") {
			t.Errorf("%s does not say where: %s", command, talk)
		}
	}
	if err := os.WriteFile(s.config, []byte("name = \"a\"\nstate = \"/nonexistent/state\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ok("serve", "--check")
	if code, _, talk := s.run("serve"); code == exitOK || !strings.Contains(talk, "init") {
		t.Errorf("serve without init: code %d: %s", code, talk)
	}
}

func TestASecondInitChangesNothing(t *testing.T) {
	s := newShell(t)
	state := filepath.Join(s.dir, "state")
	s.ok("init", "--name", "gate.test", "--state", state)
	s.fails(exitConflict, "init", "--name", "gate.test", "--state", state)
	s.fails(exitUsage, "init", "--name", "other.test", "--state", state)
	var config any
	decode(t, s.ok("serve", "--check", "--json"), &config)
}

// TestEveryExampleIsACommand runs no example; it makes sure that each names a
// command and options that exist.
func TestEveryExampleIsACommand(t *testing.T) {
	examples := 0
	var walk func(description string, commands []*cli.Command)
	walk = func(description string, commands []*cli.Command) {
		for _, line := range strings.Split(description, "\n") {
			line, found := strings.CutPrefix(strings.TrimSpace(line), "$ "+program+" ")
			if !found {
				continue
			}
			examples++
			s := newShell(t)
			code, _, talk := s.run(append(strings.Fields(line), "--help")...)
			if code != exitOK {
				t.Errorf("%q: %s", line, talk)
			}
		}
		for _, c := range commands {
			walk(c.Description, c.Subcommands)
		}
	}
	app := newApp(streams{})
	walk(app.Description, app.Commands)
	if examples < 10 {
		t.Errorf("found only %d examples", examples)
	}
}

func TestCompletionCompletes(t *testing.T) {
	for line, want := range map[string]string{"": "token", "token": "create", "token create --ro": "--role"} {
		// The library looks at the process's own arguments.
		args := append(strings.Fields(line), "--generate-bash-completion")
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%q completes to %q (%v), want %s", line, out, err, want)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "version", "--", "--generate-bash-completion")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("behind --: %q, %v: the command was run", out, err)
	}
}

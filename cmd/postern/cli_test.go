package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// asCommand makes the test binary be the command itself.
const asCommand = "POSTERN_TEST_COMMAND"

// quickExit ends a command of a race-detecting test without the second of sleep that
// is the detector's default.
const quickExit = "GORACE=atexit_sleep_ms=20"

// withEmulator names the program that runs this test binary, where the kernel cannot.
const withEmulator = "POSTERN_TEST_EMULATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// machine is one client machine before a controller.
type machine struct {
	t      testing.TB
	folder string
	// runtime has the agent's socket; without it, no agent is used.
	runtime string
	behind  string // the sshd that the service is
	c       *controltest.Controller
	h       *controltest.Host
}

func newMachine(t testing.TB) *machine {
	c := controltest.New(t)
	return &machine{t: t, c: c, h: c.AddHost(), folder: filepath.Join(t.TempDir(), "identity")}
}

func (m *machine) token() string {
	m.t.Helper()
	text, err := m.c.Token(control.RoleClient).Encode()
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

func (m *machine) command(args ...string) *exec.Cmd {
	return m.commandOf(m.t.Context(), args...)
}

func (m *machine) commandOf(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{os.Args[0]}, args...)
	if emulator := os.Getenv(withEmulator); emulator != "" {
		args = append([]string{emulator}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), asCommand+"=1", quickExit, "POSTERN_IDENTITY="+m.folder)
	if m.runtime != "" {
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+m.runtime)
	} else {
		cmd.Env = append(cmd.Env, "POSTERN_NO_AGENT=1")
	}
	return cmd
}

func (m *machine) invitation(role control.Role) string {
	m.t.Helper()
	text, err := m.c.Token(role).Invitation()
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

type result struct {
	code      int
	out, talk string
}

func (m *machine) run(stdin string, args ...string) result {
	m.t.Helper()
	cmd := m.command(args...)
	var out, talk bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &talk
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		m.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), talk.String()}
}

func (r result) want(t testing.TB, code int, talk ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; it said:\n%s", r.code, code, r.talk)
	}
	rest := r.talk
	for _, part := range talk { // in this order
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("want %q in this place of:\n%s", part, r.talk)
			return
		}
		rest = after
	}
}

func (m *machine) enrolled() *machine {
	m.t.Helper()
	m.run("", "enroll", m.token()).want(m.t, exitOK, "postern: enrolled at test.example")
	return m
}

func TestEnrolTakesTheTokenFromAnywhere(t *testing.T) {
	m := newMachine(t)
	token := m.token()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range [][2]string{{"", token}, {"", "@" + path}, {token + "\n", "-"}} {
		m = newMachine(t)
		fresh := m.token()
		os.WriteFile(path, []byte(fresh+"\n"), 0o600)
		stdin, argument := test[0], test[1]
		if stdin != "" {
			stdin = fresh
		}
		if strings.HasPrefix(argument, "postern-join:") {
			argument = fresh
		}
		r := m.run(stdin, "enroll", argument, "--name", "laptop", "--json")
		r.want(t, exitOK)
		var got struct{ Name, Controller string }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Name != "laptop" {
			t.Errorf("printed %q: %v", r.out, err)
		}
	}
}

func TestErrorsOfEnrolmentHelpAndKeepTheSecret(t *testing.T) {
	m := newMachine(t)
	token := m.token()
	for name, test := range map[string]struct {
		args []string
		code int
		talk []string
	}{
		"nothing":  {[]string{"enroll"}, exitUsage, []string{"join token is missing", "hint: "}},
		"nonsense": {[]string{"enroll", "secret-words"}, exitFailed, []string{"not a join token"}},
		"cut":      {[]string{"enroll", token[:len(token)-8]}, exitFailed, []string{"not a join token"}},
		"no file":  {[]string{"enroll", "@/nonexistent"}, exitFailed, []string{"/nonexistent"}},
	} {
		r := m.run("", test.args...)
		r.want(t, test.code, test.talk...)
		if strings.Contains(r.talk, "secret-words") || strings.Contains(r.talk, token[20:60]) {
			t.Errorf("%s: it quotes the token:\n%s", name, r.talk)
		}
	}
	host, err := m.c.Token(control.RoleHost).Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.run("", "enroll", host).want(t, exitFailed, "for a host", "hint: ", "postern-host enroll")
	m.enrolled()
	m.run("", "enroll", m.token()).want(t, exitFailed, "already enrolled", "hint: ")
}

func TestEnrolTakesAnInvitationFromAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invitation")
	for _, from := range []string{"argument", "file", "stdin"} {
		m := newMachine(t)
		link := m.invitation(control.RoleClient)
		argument, stdin := link, ""
		switch from {
		case "file":
			argument = "@" + path
			if err := os.WriteFile(path, []byte(link+"\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		case "stdin":
			argument, stdin = "-", link+"\n"
		}
		m.run(stdin, "enroll", argument).want(t, exitOK, "postern: enrolled at test.example")
		m.run("", "services").want(t, exitOK)
	}
}

func TestWhatIsWrongWithAnInvitationIsSaid(t *testing.T) {
	m := newMachine(t)
	link := m.invitation(control.RoleClient)
	changed := []byte(link)
	changed[60] ^= 3
	for want, bad := range map[string]string{
		"cut short": link[:len(link)-5], "damaged": string(changed), "for a host": m.invitation(control.RoleHost),
	} {
		r := m.run(bad, "enroll", "-")
		r.want(t, exitFailed, want, "hint: ")
		if strings.Contains(r.talk+r.out, bad[30:50]) || strings.Contains(r.talk+r.out, bad[70:90]) {
			t.Errorf("%s: it is quoted:\n%s", want, r.talk)
		}
	}
	over := m.c.Token(control.RoleClient)
	over.Expires = time.Now().Add(-time.Hour)
	text, err := over.Invitation()
	if err != nil {
		t.Fatal(err)
	}
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	m.run("", "--timeout", "200ms", "enroll", text).want(t, exitNoAnswer, "the join token has expired", "ask for a new one")
}

func TestWithoutAnIdentityTheNextStepIsTold(t *testing.T) {
	m := newMachine(t)
	for _, args := range [][]string{{"services"}, {"knock", "echo"}, {"connect", "echo"}, {"status"}} {
		m.run("", args...).want(t, exitNotEnrolled, "postern: not enrolled", "hint: ", "postern enroll")
	}
	if _, err := os.Stat(m.folder); err == nil {
		t.Error("the folder was made")
	}
}

func TestServicesAndStatus(t *testing.T) {
	m := newMachine(t).enrolled()
	r := m.run("", "services")
	r.want(t, exitOK)
	if !strings.Contains(r.out, "SERVICE") || !strings.Contains(r.out, "echo") || r.talk != "" {
		t.Errorf("printed %q and said %q", r.out, r.talk)
	}
	var services control.ServicesResponse
	if err := json.Unmarshal([]byte(m.run("", "services", "--json").out), &services); err != nil ||
		services.User != "ada" {
		t.Errorf("got %+v, %v", services, err)
	}
	r = m.run("", "status")
	r.want(t, exitOK)
	for _, want := range []string{"test.example", "certificate", "expires", "answers", "yes", "clock"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("want %q in:\n%s", want, r.out)
		}
	}
	secret, _ := os.ReadFile(filepath.Join(m.folder, "identity.json"))
	_, digits, _ := strings.Cut(string(secret), "knock-secret:")
	if out := r.out + m.run("", "status", "--json").out; strings.Contains(out, digits[:16]) {
		t.Error("status prints the knock secret")
	}
}

func TestNobodyAnswersTellsWhatToCheckInOrder(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	talk := []string{
		"postern: the controller did not answer",
		"1. the clock: it is ", "UTC here", "90s", "2. the address: " + m.c.Address(),
		"3. the network: UDP to port ", "4. expiry: this device's certificate is good until ",
	}
	for _, args := range [][]string{
		{"services"}, {"knock", "echo"}, {"connect", "--stdio", "echo"}, {"connect", "echo"}, {"status"},
	} {
		m.run("", append([]string{"--timeout", "200ms"}, args...)...).want(t, exitNoAnswer, talk...)
	}
	m.run("", "status", "--local").want(t, exitOK)
	fresh := *m
	fresh.folder = filepath.Join(t.TempDir(), "other")
	fresh.run("", "--timeout", "200ms", "enroll", m.token()).
		want(t, exitNoAnswer, "1. the clock", "2.", "3.", "4. expiry: the join token is good until ")
}

func TestADenialTellsWhy(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) {
		c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no grant for this service"}
	})
	for _, args := range [][]string{{"knock", "echo"}, {"connect", "echo"}, {"connect", "echo", "--stdio"}} {
		r := m.run("", args...)
		r.want(t, exitDenied, "denied by the controller: no grant for this service", "hint: postern services")
		if r.out != "" {
			t.Errorf("%v: printed %q", args, r.out)
		}
	}
	m.c.Set(func(c *controltest.Controller) { c.Deny, c.Host = nil, nil })
	m.run("", "knock", "echo").want(t, exitUnreachable, "not connected", "hint: ")
}

func TestKnockPrintsTheGrantAndNoSecret(t *testing.T) {
	m := newMachine(t).enrolled()
	m.run("", "knock", "echo", "--for", "10m").want(t, exitOK, "granted in ")
	r := m.run("", "knock", "--json", "--for=10m", "--", "echo")
	r.want(t, exitOK)
	var g grantJSON
	if err := json.Unmarshal([]byte(r.out), &g); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(g.Deadline); left > 10*time.Minute || left < 9*time.Minute || g.Service != "echo" {
		t.Errorf("got %+v, %s left", g, left)
	}
	if m.c.Live() != 2 {
		t.Errorf("%d sessions are live, want both", m.c.Live())
	}
}

func TestAWrongCommandLineIsUsage(t *testing.T) {
	m := newMachine(t)
	for _, args := range [][]string{
		{"frobnicate"}, {"connect"}, {"connect", "a", "a"}, {"connect", "--nope", "a"}, {"services", "x"},
		{"connect", "a", "-L", "b=1"}, {"connect", "a", "b", "-L", "1", "-L", "2", "-L", "3"},
		{"connect", "--stdio", "a", "b"}, {"agent", "x"},
		{"knock", "echo", "--for", "-1s"}, {"knock", "echo", "--for", "soon"}, {"knock", "echo", "--for", "0s"},
		{"connect", "echo", "--stdio", "--listen", "127.0.0.1:1"}, {"completion", "tcsh"},
	} {
		r := m.run("", args...)
		r.want(t, exitUsage, "postern: ", "hint: ")
		if r.out != "" {
			t.Errorf("%v: printed %q", args, r.out)
		}
	}
}

// With --stdio, standard output has the service's bytes and nothing else, and ends
// when the service ends.
func TestStdioIsOneConnection(t *testing.T) {
	m := newMachine(t).enrolled()
	sent := strings.Repeat("all of this comes back\n", 50_000)
	r := m.run(sent, "connect", "echo", "--stdio")
	r.want(t, exitOK)
	if r.out != sent {
		t.Errorf("%d bytes came back of %d", len(r.out), len(sent))
	}
	if r.talk != "" {
		t.Errorf("it said %q", r.talk)
	}
	if m.c.Live() != 0 {
		t.Error("the session was not closed at the controller")
	}
}

// live is a command that runs while the test goes on.
type live struct {
	*exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	talk bytes.Buffer
}

func (m *machine) start(args ...string) *live {
	m.t.Helper()
	l := &live{Cmd: m.command(args...)}
	l.Stderr = &l.talk
	var err error
	if l.in, err = l.StdinPipe(); err != nil {
		m.t.Fatal(err)
	}
	if l.out, err = l.StdoutPipe(); err != nil {
		m.t.Fatal(err)
	}
	if err := l.Start(); err != nil {
		m.t.Fatal(err)
	}
	return l
}

// end waits, and returns what became of it.
func (l *live) end() result {
	rest, _ := io.ReadAll(l.out)
	_ = l.Wait() // the exit code tells
	return result{l.ProcessState.ExitCode(), string(rest), l.talk.String()}
}

func (l *live) line(t testing.TB) string {
	t.Helper()
	var line []byte
	one := make([]byte, 1)
	for {
		if _, err := l.out.Read(one); err != nil {
			t.Fatalf("the output ended after %q: %v; it said:\n%s", line, err, l.talk.String())
		}
		if one[0] == '\n' {
			return string(line)
		}
		line = append(line, one[0])
	}
}

// Standard input stays open here, as a terminal's would: the command must not wait for it.
func TestARevokedStdioEndsAtOnce(t *testing.T) {
	m := newMachine(t).enrolled()
	l := m.start("connect", "--stdio", "echo")
	defer l.in.Close()
	io.WriteString(l.in, "hello\n")
	if got := l.line(t); got != "hello" {
		t.Errorf("got %q", got)
	}
	m.h.End(m.h.Sessions()[0], tunnel.ReasonRevoked)
	r := l.end()
	r.want(t, exitEnded, "the session was revoked")
	if r.out != "" {
		t.Errorf("printed %q", r.out)
	}
}

func TestConnectNeverListensForOthersUnasked(t *testing.T) {
	m := newMachine(t).enrolled()
	m.run("", "connect", "echo", "--listen", "0.0.0.0:0").
		want(t, exitUsage, "not of the loopback interface", "hint: ", "--listen-anyone")
	if n := m.c.Count(spa.KindAccess); n != 0 {
		t.Errorf("it knocked %d times all the same", n)
	}
	l := m.start("connect", "echo", "--listen", "0.0.0.0:0", "--listen-anyone", "--json")
	var g grantJSON
	if err := json.NewDecoder(l.out).Decode(&g); err != nil || g.Listen == "" {
		t.Errorf("got %+v, %v", g, err)
	}
	l.Process.Kill()
	l.end()
}

func TestHelpHasExamplesAndExitCodes(t *testing.T) {
	m := newMachine(t)
	r := m.run("", "--help")
	r.want(t, exitOK)
	for _, want := range []string{"Exit codes:", "enroll", "connect", "postern ssh me@web"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("want %q in:\n%s", want, r.out)
		}
	}
	for _, command := range (program{}).app().Commands {
		out := m.run("", command.Name, "--help").out
		if command.Name == "help" {
			continue
		}
		if !strings.Contains(out, "$ ") && !strings.Contains(out, "USAGE") {
			t.Errorf("%s has no example:\n%s", command.Name, out)
		}
	}
}

func TestCompletionNamesTheCommands(t *testing.T) {
	m := newMachine(t)
	if out := m.run("", "--generate-bash-completion").out; !strings.Contains(out, "connect") {
		t.Errorf("got %q", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := m.run("", "completion", shell).out; !strings.Contains(out, "postern") {
			t.Errorf("%s: got %q", shell, out)
		}
	}
}

func TestServicesSaysWhyNotWhereTheControllerTells(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Handle(control.PathServices, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(control.ServicesResponse{
			User: "alice", Others: []control.Other{{Name: "wiki", Reason: "not granted to alice"}},
		})
	})
	r := m.run("", "services")
	r.want(t, exitOK, "alice may reach nothing yet")
	if !strings.Contains(r.out, "wiki") || !strings.Contains(r.out, "not granted to alice") {
		t.Errorf("printed %q", r.out)
	}
}

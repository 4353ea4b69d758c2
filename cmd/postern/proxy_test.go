package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/spa"
)

// web puts a web server behind the service "echo".
func (m *machine) web() {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s\n", r.Method, r.Host)
	}))
	m.t.Cleanup(s.Close)
	m.h.SetTarget(strings.TrimPrefix(s.URL, "http://"))
}

func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--max-time", "20"}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestTheProxyOffersServicesUntilCtrlC(t *testing.T) {
	m := newMachine(t).enrolled()
	m.web()
	l := m.start("proxy", "--listen", "127.0.0.1:0")
	at := l.line(t)
	for _, way := range []string{"socks5h://" + at, "http://" + at} {
		if out, code := curl(t, "--proxy", way, "http://echo.postern.internal/"); code != 0 || out != "GET for echo.postern.internal\n" {
			t.Errorf("%s: exit code %d, %q", way, code, out)
		}
	}
	if out, code := curl(t, "http://"+at+"/proxy.pac"); code != 0 || !strings.Contains(out, `["echo"]`) {
		t.Errorf("PAC file: exit code %d, %q", code, out)
	}
	if n := m.c.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d knocks for one session", n)
	}
	l.Process.Signal(os.Interrupt)
	r := l.end()
	r.want(t, exitInterrupted, "hint: export ALL_PROXY=socks5h://"+at, "hint: ", "http://"+at+"/proxy.pac")
	if r.out != "" || strings.Contains(r.talk, "postern: ") {
		t.Errorf("printed %q and said %q", r.out, r.talk)
	}
	if m.c.Live() != 0 {
		t.Error("the session was not closed at the controller")
	}
}

// Programs behind a proxy show only that something failed: the person is told why,
// once for all the tries of a program.
func TestTheProxyTellsOnceWhyAServiceIsOutOfReach(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) {
		c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no grant for this service"}
	})
	l := m.start("proxy", "--listen", "127.0.0.1:0", "--json")
	var text proxyJSON
	if err := json.NewDecoder(l.out).Decode(&text); err != nil || text.Listen == "" || !strings.HasSuffix(text.PAC, "/proxy.pac") {
		t.Fatalf("got %+v, %v", text, err)
	}
	for range 3 {
		if out, code := curl(t, "--proxy", text.HTTP, "-o", "-", "http://echo/"); !strings.Contains(out, "no grant for this service") {
			t.Errorf("exit code %d, %q", code, out)
		}
		if out, code := curl(t, "--proxy", text.SOCKS, "http://echo/"); code != 97 || out != "" {
			t.Errorf("exit code %d, %q", code, out)
		}
		curl(t, "--proxy", text.SOCKS, "http://elsewhere.example/")
		curl(t, "--proxy", text.SOCKS, "http://another.example/")
	}
	l.Process.Signal(os.Interrupt)
	r := l.end()
	r.want(t, exitInterrupted, "postern: echo: ", "no grant for this service", "hint: ",
		"postern: elsewhere.example is refused", "hint: --others direct")
	if n := strings.Count(r.talk, "no grant for this service"); n != 1 || strings.Contains(r.talk, "another.example") {
		t.Errorf("it said this %d times:\n%s", n, r.talk)
	}
}

func TestTheProxyIsForThisUserUnlessToldOtherwise(t *testing.T) {
	m := newMachine(t).enrolled()
	file := filepath.Join(t.TempDir(), "password")
	const secret = "correct-horse-battery"
	if err := os.WriteFile(file, []byte("ada:"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("", "proxy", "--listen", "0.0.0.0:0").want(t, exitUsage, "not of the loopback interface", "hint: ")
	m.run("", "proxy", "--listen", "0.0.0.0:0", "--listen-anyone").want(t, exitUsage, "--password-file")
	m.run("", "proxy", "--others", "sometimes").want(t, exitUsage, "refuse or direct")
	m.run("", "proxy", "something").want(t, exitUsage)
	l := m.start("proxy", "--listen", "127.0.0.1:0", "--password-file", file)
	m.web()
	at := l.line(t)
	if out, code := curl(t, "--proxy", "socks5h://"+at, "http://echo/"); code == 0 || out != "" {
		t.Errorf("without a password: exit code %d, %q", code, out)
	}
	if out, code := curl(t, "--proxy", "socks5h://ada:"+secret+"@"+at, "http://echo/"); code != 0 {
		t.Errorf("with it: exit code %d, %q", code, out)
	}
	l.Process.Signal(os.Interrupt)
	r := l.end()
	r.want(t, exitInterrupted, "hint: export ALL_PROXY=socks5h://USER:PASSWORD@"+at)
	if strings.Contains(r.talk, secret) {
		t.Errorf("it told the password:\n%s", r.talk)
	}
	os.WriteFile(file, []byte("secret-but-no-user\n"), 0o600)
	r = m.run("", "proxy", "--listen", "127.0.0.1:0", "--password-file", file)
	r.want(t, exitUsage, "USER:PASSWORD")
	if strings.Contains(r.talk, "secret-but") {
		t.Errorf("it quotes the file:\n%s", r.talk)
	}
}

func TestExecGivesTheCommandAProxyOfItsOwn(t *testing.T) {
	m := newMachine(t).enrolled()
	m.web()
	for _, args := range [][]string{
		{"exec", "--", "curl", "-sS", "http://echo/"},
		{"exec", "curl", "-sS", "http://echo/"},
		{"exec", "--others", "refuse", "--", "sh", "-c", `curl -sS --proxy "$ALL_PROXY" "$@"`, "--", "http://echo/"},
		{"exec", "--", "sh", "-c", `curl -sS --proxy "$POSTERN_PROXY" --proxytunnel "$1"`, "--", "http://echo/"},
	} {
		r := m.run("", args...)
		r.want(t, exitOK)
		if r.out != "GET for echo\n" || r.talk != "" {
			t.Errorf("%v: printed %q and said %q", args, r.out, r.talk)
		}
	}
	// What it has is not there afterwards, nor for others.
	r := m.run("", "exec", "--", "sh", "-c", `echo "$http_proxy"; curl -sS -o /dev/null -w '%{http_code}' --proxy "${HTTP_PROXY#*@}" http://echo/`)
	proxy, status, _ := strings.Cut(r.out, "\n")
	if status != "407" {
		t.Errorf("without its password, a program got %q", status)
	}
	if out, code := curl(t, "--proxy", proxy, "http://echo/"); code == 0 {
		t.Errorf("the proxy is still there: %q", out)
	}
	if m.c.Live() != 0 {
		t.Error("a session was not closed at the controller")
	}
}

func TestExecIsTheCommandToWhoeverRunsIt(t *testing.T) {
	m := newMachine(t).enrolled()
	if r := m.run("to standard input", "exec", "--", "sh", "-c", `cat; echo "$1" >&2; exit 42`, "sh", "--help"); r.code != 42 ||
		r.out != "to standard input" || r.talk != "--help\n" {
		t.Errorf("got %+v", r)
	}
	m.run("", "exec", "--", "/nonexistent/command").want(t, exitNotFound, "postern: run /nonexistent/command: ")
	m.run("", "exec", "--", "no-such-command-anywhere").want(t, exitNotFound, "postern: run no-such-command-anywhere: ")
	m.run("", "exec", "--", "/etc/passwd").want(t, exitCannotRun, "permission denied")
	m.run("", "exec").want(t, exitUsage, "the command is missing")
	m.run("", "exec", "--env-only", "ls").want(t, exitUsage)
	m.run("", "exec", "--json", "ls").want(t, exitUsage)
	stranger := newMachine(t)
	if r := stranger.run("", "exec", "--", "echo", "run"); r.code != exitNotEnrolled || r.out != "" {
		t.Errorf("without an identity: %+v", r)
	}
}

func TestExecPrintsItsVariablesForAShell(t *testing.T) {
	m := newMachine(t).enrolled()
	m.web()
	l := m.start("exec", "--env-only")
	script := l.line(t) + "\n"
	for range 8 {
		script += l.line(t) + "\n"
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script+`curl -sS http://echo/; echo "$NO_PROXY"`)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "GET for echo\nlocalhost,127.0.0.1") {
		t.Errorf("%v: %q", err, out)
	}
	l.Process.Signal(os.Interrupt)
	l.end().want(t, exitInterrupted)
	l = m.start("exec", "--env-only", "--json")
	var env map[string]string
	if err := json.NewDecoder(l.out).Decode(&env); err != nil || env["all_proxy"] != env["ALL_PROXY"] || env["https_proxy"] == "" {
		t.Errorf("got %v, %v", env, err)
	}
	l.Process.Signal(os.Interrupt)
	_, _ = io.Copy(io.Discard, l.out)
	l.end().want(t, exitInterrupted)
}

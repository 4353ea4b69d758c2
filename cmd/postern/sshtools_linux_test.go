package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// configured is a person's ssh after ssh-config --install, for the service echo.
type configured struct {
	*machine
	dir, config string
}

func newConfigured(t *testing.T) configured {
	testkit.RequireRoot(t)
	m := newMachine(t).enrolled().withAgent()
	keyFile := m.sshd()
	m.services("echo")
	dir, err := os.MkdirTemp("", "pc") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := configured{m, dir, filepath.Join(dir, "config")}
	text := fmt.Sprintf("IdentityFile %s\nUserKnownHostsFile %s/known\nStrictHostKeyChecking accept-new\nBatchMode yes\nUser root\n", keyFile, dir)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("", "ssh-config", "--install", "--path", c.config).want(t, exitOK, "1 service")
	return c
}

func (c configured) tool(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), name, args...)
	cmd.Env = append(c.command().Env, "HOME="+c.dir, "LC_ALL=C.UTF-8")
	return cmd
}

func (c configured) ssh(args ...string) *exec.Cmd {
	return c.tool("ssh", append([]string{"-F", c.config}, args...)...)
}

// closeMaster ends a shared connection that was left for later ones.
func (c configured) closeMaster(socket string) {
	if out, err := exec.Command("ssh", "-F", c.config, "-o", "ControlPath="+socket, "-O", "exit", "echo").CombinedOutput(); err != nil {
		c.t.Errorf("end the shared connection: %v: %s", err, out)
	}
}

func TestAnsibleWorksOnServicesByTheirNames(t *testing.T) {
	c := newConfigured(t)
	sockets := filepath.Join(c.dir, "c")
	ansible := func(args ...string) string {
		t.Helper()
		cmd := c.tool("ansible", append([]string{"all", "-i", "echo,"}, args...)...)
		cmd.Env = append(cmd.Env, "ANSIBLE_SSH_COMMON_ARGS=-F "+c.config, "ANSIBLE_SSH_CONTROL_PATH_DIR="+sockets,
			"ANSIBLE_REMOTE_TEMP="+c.dir+"/remote", "ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3", "ANSIBLE_NOCOLOR=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ansible %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	defer func() { // Ansible keeps its connection for a minute
		found, _ := filepath.Glob(sockets + "/*")
		for _, socket := range found {
			c.closeMaster(socket)
		}
	}()
	if out := ansible("-m", "ping"); !strings.Contains(out, `"ping": "pong"`) {
		t.Errorf("ping: %s", out)
	}
	if out := ansible("-m", "command", "-a", "echo through the door"); !strings.Contains(out, "through the door") {
		t.Errorf("command: %s", out)
	}
	payload := make([]byte, 1<<20)
	rand.Read(payload)
	from, to := filepath.Join(c.dir, "from"), filepath.Join(c.dir, "to")
	os.WriteFile(from, payload, 0o600)
	ansible("-m", "copy", "-a", "src="+from+" dest="+to)
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("copy: %d bytes, %v", len(got), err)
	}
	if n := c.c.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d knocks, want 1", n)
	}
}

// An editor sends a script to a shell, and goes on through a dynamic forward of the
// same connection, which others share.
func TestWhatEditorsDoOverSSHWorks(t *testing.T) {
	c := newConfigured(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the editor's server") }))
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dynamic := l.Addr().String()
	l.Close()
	socket := filepath.Join(c.dir, "master")
	shell := c.ssh("-T", "-o", "ControlMaster=yes", "-o", "ControlPath="+socket, "-D", dynamic, "echo", "bash")
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, talk bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &talk
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "for i in 1 2 3; do echo line $i; done\necho to stderr >&2\n")
	testkit.Eventually(t, 20*time.Second, "the forward and the shared connection", func() bool {
		conn, err := net.Dial("tcp", dynamic)
		if err == nil {
			conn.Close()
		}
		_, missing := os.Stat(socket)
		return err == nil && missing == nil
	})
	got, err := c.tool("curl", "-sS", "--max-time", "20", "--proxy", "socks5h://"+dynamic, server.URL).CombinedOutput()
	if err != nil || string(got) != "the editor's server" {
		t.Errorf("through the dynamic forward: %q, %v", got, err)
	}
	for range 3 {
		got, err := c.ssh("-o", "ControlMaster=no", "-o", "ControlPath="+socket, "echo", "cat").Output()
		if err != nil || len(got) > 0 {
			t.Errorf("over the shared connection: %q, %v", got, err)
		}
	}
	io.WriteString(in, "echo an answer\nexit 3\n")
	in.Close()
	err = shell.Wait()
	if code := shell.ProcessState.ExitCode(); code != 3 || out.String() != "line 1\nline 2\nline 3\nan answer\n" || !strings.Contains(talk.String(), "to stderr\n") {
		t.Errorf("the script: %v, %q, it said %s", err, out.String(), talk.String())
	}
	if n := c.c.Count(spa.KindAccess); n != 1 {
		t.Errorf("%d knocks, want 1", n)
	}
}

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// sshd runs the real one behind the service echo, for whoever has the key at the
// returned path.
func (m *machine) sshd() (keyFile string) {
	t := m.t
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"host", "user"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(name))
	}
	public, err := os.ReadFile(path("user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path("authorized"), public, 0o600)
	os.MkdirAll("/run/sshd", 0o755)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	config := fmt.Sprintf(`ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
`, address, path("host"), path("authorized"))
	os.WriteFile(path("sshd_config"), []byte(config), 0o600)
	cmd := exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", path("sshd_config"))
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	testkit.Eventually(t, 10*time.Second, "sshd to answer", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	m.behind = address
	m.h.SetTarget(address)
	return path("user")
}

// run runs a program to its end.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// services has the controller name the services.
func (m *machine) services(names ...string) {
	all := control.ServicesResponse{Device: "laptop", User: "alice"}
	for _, name := range names {
		all.Services = append(all.Services, control.Service{Name: name, Host: "h", Port: 22, Online: true})
	}
	m.c.Handle(control.PathServices, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(all)
	})
}

// What a person does with ssh, after one command.
func TestPlainSSHScpSftpRsyncAndGitWorkOnceInstalled(t *testing.T) {
	stalls := testkit.WatchStalls(t) // a knock is sent again after 700 ms
	testkit.RequireRoot(t)
	m := newMachine(t).enrolled().withAgent()
	keyFile := m.sshd()
	m.services("echo", "mine")
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	before := fmt.Sprintf("IdentityFile %s\nUserKnownHostsFile %s/known\nStrictHostKeyChecking accept-new\nBatchMode yes\n"+
		"Host mine\n\tHostName 192.0.2.1\n", keyFile, dir)
	if err := os.WriteFile(config, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("", "ssh-config", "--install", "--path", config).want(t, exitOK, "mine are known to ssh without Postern", "1 service", "includes it now")

	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(m.command().Env, "GIT_SSH_COMMAND=ssh -F "+config, "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		return cmd
	}
	do := func(program string, args ...string) string {
		t.Helper()
		cmd := command(program, args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, out)
		}
		return string(out)
	}
	same := func(a, b string) {
		t.Helper()
		x, err := os.ReadFile(a)
		y, err2 := os.ReadFile(b)
		if err != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Errorf("%s and %s differ: %v, %v", a, b, err, err2)
		}
	}

	if out := do("ssh", "-F", config, "root@echo", "echo in"); !strings.HasSuffix(out, "in\n") {
		t.Errorf("ssh printed %q", out)
	}
	if out := do("ssh", "-F", config, "root@echo.postern.internal", "echo full"); out != "full\n" {
		t.Errorf("ssh by the full name printed %q: it should know the host's key by now", out)
	}
	err := command("ssh", "-F", config, "root@echo", "exit 42").Run()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 42 {
		t.Errorf("a command's exit code: %v", err)
	}
	payload := make([]byte, 3<<20)
	rand.Read(payload)
	file := filepath.Join(dir, "payload")
	os.WriteFile(file, payload, 0o600)
	do("scp", "-q", "-F", config, file, "root@echo:"+dir+"/by-scp")
	same(file, dir+"/by-scp")
	batch := filepath.Join(dir, "batch")
	os.WriteFile(batch, fmt.Appendf(nil, "put %s %s/by-sftp\nget %s/by-sftp %s/back\n", file, dir, dir, dir), 0o600)
	do("sftp", "-q", "-F", config, "-b", batch, "root@echo")
	same(file, dir+"/back")
	do("rsync", "-a", "-e", "ssh -F "+config, file, "root@echo:"+dir+"/by-rsync")
	same(file, dir+"/by-rsync")
	do("git", "init", "-q", "--bare", dir+"/project.git")
	do("git", "clone", "-q", "root@echo:"+dir+"/project.git", dir+"/work")
	do("git", "-C", dir+"/work", "commit", "-q", "--allow-empty", "-m", "through the door")
	do("git", "-C", dir+"/work", "push", "-q", "origin", "HEAD")
	if out := do("git", "--git-dir", dir+"/project.git", "log", "--all", "--format=%s"); out != "through the door\n" {
		t.Errorf("the repository has %q", out)
	}
	if out := do("ssh", "-G", "-F", config, "mine"); strings.Contains(out, "proxycommand") {
		t.Error("a name that the configuration had already was taken")
	}
	if n := m.c.Count(spa.KindAccess); n != 1 && !stalls.Excuse(n == 2, 700*time.Millisecond) {
		t.Errorf("%d knocks for all of it, want 1", n)
	}
	known, err := os.ReadFile(dir + "/known")
	if err != nil || bytes.Count(known, []byte("\n")) != 1 || !bytes.HasPrefix(known, []byte("echo.postern.internal ")) {
		t.Errorf("known hosts: %q, %v", known, err)
	}
	m.run("", "ssh-config", "--uninstall", "--path", config).want(t, exitOK, "as it was")
	if after, err := os.ReadFile(config); err != nil || string(after) != before {
		t.Errorf("after uninstall: %q, %v", after, err)
	}
}

func TestSSHKnowsWhatIsGrantedLater(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	m := newMachine(t).enrolled()
	m.services("web", "mine")
	ssh := filepath.Join(home, ".ssh")
	os.Mkdir(ssh, 0o700)
	os.WriteFile(filepath.Join(ssh, "config"), []byte("Host mine\n\tUser me\n"), 0o600)
	names := func() string {
		b, _ := os.ReadFile(filepath.Join(ssh, "postern.conf")) // none: no names
		var found []string
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Host" && !strings.HasPrefix(f[1], "*") {
				found = append(found, f[1])
			}
		}
		return strings.Join(found, " ")
	}
	if r := m.run("", "services"); names() != "" || r.talk != "" {
		t.Errorf("not installed, and there is %q; it said %q", names(), r.talk)
	}
	m.run("", "ssh-config", "--install").want(t, exitOK, "1 service")

	m.services("web", "db", "mine")
	m.run("", "services").want(t, exitOK, "ssh knows your present services")
	if names() != "web db" {
		t.Errorf("ssh knows %q", names())
	}
	if r := m.run("", "services"); r.talk != "" {
		t.Errorf("without a change it said %q", r.talk)
	}
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	m.run("", "--timeout", "200ms", "ssh-config", "--install").want(t, exitOK, "services of last time", "2 services")
	if names() != "web db" {
		t.Errorf("after an installation in silence, ssh knows %q", names())
	}
	m.c.Set(func(c *controltest.Controller) { c.Lose = 0 })

	// Another identity's services are no reason.
	other := newMachine(t).enrolled()
	other.services("theirs")
	if r := other.run("", "services"); r.talk != "" || names() != "web db" {
		t.Errorf("another identity: %q, it said %q", names(), r.talk)
	}

	// Plain ssh asks for nothing by itself: the agent that it starts does, when long nobody has.
	cached := filepath.Join(m.folder, control.ServicesFile)
	list, err := client.CachedServices(m.folder)
	if err != nil {
		t.Fatal(err)
	}
	list.Asked = list.Asked.Add(-2 * time.Hour)
	b, _ := json.Marshal(list)
	if err := os.WriteFile(cached, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m.services("web", "db", "forge")
	m.withAgent()
	m.run("hello", "connect", "--stdio", "echo").want(t, exitOK)
	testkit.Eventually(t, 20*time.Second, "the agent to tell ssh", func() bool { return names() == "web db forge" })
}

func TestNoHostIsTakenThatCannotBeAService(t *testing.T) {
	m := newMachine(t).enrolled()
	for _, host := range []string{"$(touch bad)", "me@a;b", "ssh://a'b/"} {
		m.run("", "ssh", host, "true").want(t, exitUsage, "no service's name")
	}
}

func TestPosternSSHIsSSH(t *testing.T) {
	testkit.RequireRoot(t)
	m := newMachine(t).enrolled().withAgent()
	keyFile := m.sshd()
	options := []string{"-i", keyFile, "-oUserKnownHostsFile=" + t.TempDir() + "/known", "-o", "StrictHostKeyChecking=accept-new",
		"-o", "BatchMode=yes", "-F", "none", "-4q"}
	ssh := func(args ...string) result { return m.run("", append(append([]string{"ssh"}, options...), args...)...) }
	if r := ssh("root@echo", "echo", "--json", "-h"); r.code != 0 || r.out != "--json -h\n" {
		t.Errorf("exit code %d, %q, it said %s", r.code, r.out, r.talk)
	}
	if r := ssh("-l", "root", "echo.postern.internal", "exit 7"); r.code != 7 {
		t.Errorf("exit code %d, want the command's; it said %s", r.code, r.talk)
	}
	m.c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted} })
	if r := ssh("root@other", "true"); r.code != 255 || !strings.Contains(r.talk, "denied") {
		t.Errorf("exit code %d, want ssh's own; it said %s", r.code, r.talk)
	}
	m.c.Set(func(c *controltest.Controller) { c.Deny = nil })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if r := ssh("root@echo", "echo in"); r.out != "in\n" {
				t.Errorf("exit code %d, %q, it said %s", r.code, r.out, r.talk)
			}
		})
	}
	all.Wait()
	m.run("", "ssh").want(t, exitUsage, "service is missing")
	if r := m.run("", "ssh", "--help"); r.code != 0 || !strings.Contains(r.out, "SSH OPTION") {
		t.Errorf("help: %d, %q", r.code, r.out)
	}
}

func TestTheDestinationIsFoundAmongSSHsOptions(t *testing.T) {
	for line, want := range map[string]string{
		"web": "web", "me@web": "web", "-p 22 me@web uptime": "web", "-p22 web": "web", "-4Av web": "web",
		"-4Ap 22 web": "web", "-L 8080:localhost:80 -i key web -v": "web", "-o User=me web": "web", "-oUser=me web": "web",
		"-- web": "web", "ssh://me@web:22/": "web", "-V": "", "-p": "", "a@b@web": "web", "-J jump web": "web", "-N -f web": "web",
	} {
		if got := destination(strings.Fields(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

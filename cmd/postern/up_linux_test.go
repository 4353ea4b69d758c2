package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/client/resolver"
	"github.com/postern-sdp/postern/client/up"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// resident is how many bytes of memory a process has.
func resident(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	if found == nil {
		t.Fatalf("no VmRSS in %s", b)
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n << 10
}

// built is the command as people have it, without the race detector.
func built(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postern")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return path
}

func TestTenServicesAreUpAndKnockedForWhenUsedInLittleMemory(t *testing.T) {
	m := newMachine(t).enrolled()
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("service-%d", i))
	}
	m.services(names...)
	cmd := exec.CommandContext(t.Context(), built(t), "up", "--dns", "127.63.0.53:15354")
	cmd.Env = append(m.command().Env, "XDG_RUNTIME_DIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var talk strings.Builder
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var addresses []string
	for len(addresses) < 10 && lines.Scan() {
		f := strings.Fields(lines.Text())
		if f[0] == "SERVICE" {
			continue
		}
		if f[0] != names[len(addresses)] || f[1] != f[0]+".postern.internal" || f[3] != "tcp/22" {
			t.Fatalf("line %q", lines.Text())
		}
		addresses = append(addresses, f[2]+":22")
	}
	if n := m.c.Count(spa.KindAccess); n != 0 {
		t.Errorf("%d knocks before anything was used", n)
	}
	idle := resident(t, cmd.Process.Pid)
	for i, a := range addresses {
		conn, err := net.Dial("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		text := fmt.Sprint("through service ", i)
		io.WriteString(conn, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
	if n := m.c.Count(spa.KindAccess); n != 10 {
		t.Errorf("%d knocks for ten services in use", n)
	}
	busy := resident(t, cmd.Process.Pid)
	t.Logf("resident: %.1f MB with ten services up, %.1f MB with a tunnel to each", float64(idle)/1e6, float64(busy)/1e6)
	// The promise is 25 MB, which test/e2e checks against the real controller and host.
	if idle > 40e6 || busy > 60e6 {
		t.Errorf("resident: %d bytes idle, %d with ten tunnels", idle, busy)
	}
	dig := exec.CommandContext(t.Context(), "dig", "@127.63.0.53", "-p", "15354", "+short", "service-3.postern.internal")
	if got, err := dig.Output(); err != nil || strings.TrimSpace(string(got))+":22" != addresses[3] {
		t.Errorf("dig says %q, %v, want %s", got, err, addresses[3])
	}
	cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d; it said %s", code, talk.String())
	}
	if m.c.Live() != 0 {
		t.Errorf("%d sessions were left open", m.c.Live())
	}
}

// oneLoopback is a network like macOS's: of 127.0.0.0/8, 127.0.0.1 alone is there.
func oneLoopback(t *testing.T) *testkit.Namespace {
	n := testkit.Netns(t)
	n.Run(t, "ip", "address", "add", "127.0.0.1/32", "dev", "lo")
	n.Run(t, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
	return n
}

func TestWithOneLoopbackAddressNamesLeadToIt(t *testing.T) {
	m := newMachine(t).enrolled()
	m.services("db", "web")
	m.run("", "services").want(t, exitOK)
	n := oneLoopback(t)
	cmd := m.command("--timeout", "200ms", "up", "--json", "--dns", "127.0.0.1:15354")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(os.Interrupt)
	var locals []up.Local
	if err := json.NewDecoder(out).Decode(&locals); err != nil || len(locals) != 2 {
		t.Fatalf("%+v, %v", locals, err)
	}
	for _, l := range locals {
		if l.Address.Addr().String() != "127.0.0.1" || l.Error != "" {
			t.Errorf("%+v", l)
		}
		n.Do(t, func() {
			conn, err := net.Dial("tcp", l.Address.String())
			if err != nil {
				t.Errorf("%s: %v", l.Service, err)
				return
			}
			conn.Close()
		})
	}
	if got := n.Run(t, "dig", "@127.0.0.1", "-p", "15354", "+short", "db.postern.internal"); got != "127.0.0.1\n" {
		t.Errorf("dig says %q", got)
	}
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc"), 0o755)
	n.Do(t, func() { m.run("", "up", "--root", root, "--install-hosts", "db").want(t, exitOK, "1 name") })
	if text, _ := os.ReadFile(filepath.Join(root, "etc/hosts")); !strings.Contains(string(text), "127.0.0.1 db.postern.internal\n") {
		t.Errorf("hosts: %s", text)
	}
}

func TestNamesGetIntoTheHostsFileAndOut(t *testing.T) {
	m := newMachine(t)
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc"), 0o755)
	hosts := filepath.Join(root, "etc/hosts")
	os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o644)
	m.run("", "up", "--root", root, "--install-hosts", "db", "web").want(t, exitOK, "2 names")
	text, _ := os.ReadFile(hosts)
	if !strings.Contains(string(text), "127.69.36.156 db.postern.internal\n") {
		t.Errorf("hosts: %s", text)
	}
	m.run("", "up", "--root", root, "--uninstall-hosts").want(t, exitOK, "as it was")
	if text, _ := os.ReadFile(hosts); string(text) != "127.0.0.1 localhost\n" {
		t.Errorf("hosts: %s", text)
	}
	for _, args := range [][]string{
		{"up", "--install-hosts"}, {"up", "--install-hosts", "a/b"}, {"up", "--install-hosts", "--uninstall-hosts", "a"},
		{"up", "--dns", "8.8.8.8:53"}, {"up", "--dns", "nonsense"},
	} {
		m.run("", args...).want(t, exitUsage, "postern: ", "hint: ")
	}
}

// A drop-in for a resolver that does not run, or that nobody asks, would be no success.
func TestTheResolverIsToldOnlyWhereItIsAsked(t *testing.T) {
	m := newMachine(t).enrolled()
	root := t.TempDir()
	for _, dir := range []string{"etc/systemd/system", "run/systemd/resolve"} {
		os.MkdirAll(filepath.Join(root, dir), 0o755)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	install := []string{"up", "--root", root, "--install-resolver"}
	m.run("", install...).want(t, exitFailed, "does not run here", "hint: sudo postern up --install-hosts")
	l, err := net.Listen("unix", filepath.Join(root, "run/systemd/resolve/io.systemd.Resolve"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write("etc/resolv.conf", "nameserver 192.0.2.53\n# nameserver 127.0.0.53\n")
	write("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n")
	m.run("", install...).want(t, exitFailed, "programs do not ask it", "hint: sudo postern up --install-hosts")
	if found, _ := filepath.Glob(root + "/etc/systemd/system/*"); len(found) > 0 {
		t.Errorf("made %q", found)
	}
	for _, asked := range [][2]string{{"etc/nsswitch.conf", "hosts:\tfiles resolve [!UNAVAIL=return] dns\n"}, {"etc/resolv.conf", "nameserver 127.0.0.53\n"}} {
		write("etc/nsswitch.conf", "hosts: files dns\n")
		write(asked[0], asked[1])
		m.run("", install...).want(t, exitOK, "systemctl enable postern-resolver.service", "systemctl restart", "asked for at 127.63.0.53:5354")
		m.run("", "up", "--root", root, "--uninstall-resolver").want(t, exitOK, "systemctl disable --now", "as it was")
		m.run("", "up", "--root", root, "--uninstall-resolver").want(t, exitOK, "nothing to take away")
	}
}

func TestWithoutAResolverTheHostsFileIsHintedAt(t *testing.T) {
	m := newMachine(t).enrolled()
	root := t.TempDir()
	path := filepath.Join(root, "etc/systemd/system/postern-resolver.service")
	d, err := resolver.For(root, "postern.internal", netip.MustParseAddrPort("127.63.0.53:15355"))
	if err != nil || d.Path != path {
		t.Fatal(d, err)
	}
	if _, err := d.Install(); err != nil { // of a resolver that is gone
		t.Fatal(err)
	}
	cmd := m.command("up", "--root", root, "--dns", "127.63.0.53:15355")
	talk, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(os.Interrupt)
	lines := bufio.NewScanner(talk)
	for lines.Scan() {
		if line := lines.Text(); strings.HasPrefix(line, "hint: names like") {
			if !strings.Contains(line, "--install-hosts") {
				t.Error(line)
			}
			return
		}
	}
	t.Error("nothing is hinted at")
}

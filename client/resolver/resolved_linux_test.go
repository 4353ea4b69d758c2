package resolver

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// resolvedFolder is where .ci/deps puts systemd-resolved, which is not to run on the
// machine of the tests.
const resolvedFolder = "/usr/local/lib/postern-tests/resolved"

const busConfig = `<busconfig>
  <type>system</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
`

// network is a machine with a real systemd-resolved and two servers of names. Its links
// are no dummies: not every kernel that runs tests has those.
type network struct {
	*testkit.Namespace
	t   *testing.T
	dir string
}

func newNetwork(t *testing.T) *network {
	n := &network{testkit.Netns(t), t, t.TempDir()}
	for _, dir := range []string{n.dir, filepath.Dir(n.dir)} { // systemd-resolved is another user
		os.Chmod(dir, 0o755)
	}
	testkit.Cable(t, n.Namespace, "uplink", []string{"192.0.2.1/24"}, n.Namespace, "uplink-end", nil)
	testkit.Cable(t, n.Namespace, link, nil, n.Namespace, "postern-end", nil)
	n.dnsmasq("others", "192.0.2.1", 53, "/example.com/198.51.100.7")
	n.dnsmasq("ours", "127.63.0.53", 5354, "/db.postern.internal/127.69.36.156")
	return n
}

func (n *network) file(name string) string { return filepath.Join(n.dir, name) }

// start runs a program until the end of the test.
func (n *network) start(name string, args ...string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), n.bus())
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	var err error
	n.Do(n.t, func() { err = cmd.Start() })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("%s: %s", name, log.String())
		}
	})
}

func (n *network) bus() string { return "DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + n.file("bus") }

func (n *network) dnsmasq(name, address string, port int, answer string) {
	n.start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root",
		"--listen-address="+address, fmt.Sprintf("--port=%d", port), "--address="+answer, "--pid-file=",
		"--log-queries", "--log-facility="+n.file(name))
	testkit.Eventually(n.t, 10*time.Second, name+" to answer", func() bool {
		up := false
		n.Do(n.t, func() {
			conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
			if up = err == nil; up {
				conn.Close()
			}
		})
		return up
	})
}

// resolved runs systemd-resolved, with others' server in resolv.conf: its own folder and
// its configuration are in a name space of the process alone.
func (n *network) resolved() {
	bus := fmt.Sprintf(busConfig, n.file("bus"))
	os.WriteFile(n.file("bus.conf"), []byte(bus), 0o644)
	os.WriteFile(n.file("resolv.conf"), []byte("nameserver 192.0.2.1\n"), 0o644)
	n.start("dbus-daemon", "--config-file="+n.file("bus.conf"), "--nofork", "--nopidfile")
	testkit.Eventually(n.t, 10*time.Second, "the bus", func() bool { _, err := os.Stat(n.file("bus")); return err == nil })
	n.start("unshare", "--mount", "--propagation=private", "sh", "-ec", `
mkdir -p /run/systemd /etc/systemd
mount -t tmpfs none /run/systemd
mount -t tmpfs none /etc/systemd
mount --bind "$0/resolv.conf" "$(readlink -f /etc/resolv.conf)"
mkdir -m 777 /run/systemd/resolve
caps=+setpcap,+net_raw,+net_bind_service
for program in '`+resolvedFolder+`/lib' '`+resolvedFolder+`/usr/lib'; do [ -e "$program/systemd/systemd-resolved" ] && break; done
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=$caps --ambient-caps=$caps "$program/systemd/systemd-resolved"`, n.dir)
	testkit.Eventually(n.t, 20*time.Second, "systemd-resolved", func() bool {
		_, err := n.resolvectl("status")
		return err == nil
	})
}

func (n *network) resolvectl(args ...string) (string, error) { return n.command("resolvectl", args...) }

func (n *network) command(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(n.t.Context(), name, args...)
	if name == "resolvectl" {
		cmd = exec.CommandContext(n.t.Context(), resolvedFolder+"/usr/bin/resolvectl", args...)
	}
	cmd.Env = append(os.Environ(), n.bus())
	var out []byte
	var err error
	n.Do(n.t, func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// begin does what the unit does when it is started.
func (n *network) begin(text string) {
	n.t.Helper()
	for line := range strings.Lines(text) {
		command, found := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
		if !found {
			continue
		}
		command, mayFail := strings.CutPrefix(command, "-")
		words := strings.Fields(command)
		if out, err := n.command(words[0], words[1:]...); err != nil && !mayFail {
			n.t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
}

// asked are the names that a server was asked for.
func (n *network) asked(server string) string {
	b, err := os.ReadFile(n.file(server))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

func TestSystemdResolvedAsksUsForOurNamesAndOthersForTheRest(t *testing.T) {
	testkit.RequireRoot(t)
	if _, err := os.Stat(resolvedFolder); err != nil {
		t.Fatal("there is no systemd-resolved to try: run .ci/deps as root")
	}
	n := newNetwork(t)
	n.resolved()
	d, err := For("/", "postern.internal", netip.MustParseAddrPort("127.63.0.53:5354"))
	if err != nil {
		t.Fatal(err)
	}
	n.begin(d.Text)
	for name, want := range map[string]string{"db.postern.internal": "127.69.36.156", "www.example.com": "198.51.100.7"} {
		if out, err := n.resolvectl("query", "--cache=no", "-4", name); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if ours := n.asked("ours"); strings.Contains(ours, "example.com") || !strings.Contains(ours, "db.postern.internal") {
		t.Errorf("our server was asked for what is not ours:\n%s", ours)
	}
	if others := n.asked("others"); strings.Contains(others, "postern") || !strings.Contains(others, "example.com") {
		t.Errorf("others learnt of our names:\n%s", others)
	}
}

func TestTheUnitIsOneThatSystemdTakes(t *testing.T) {
	root := t.TempDir()
	d, err := For(root, "postern.internal", netip.MustParseAddrPort("127.63.0.53:5354"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Install(); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", d.Path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		// This machine need not have what the unit is for.
		if strings.Contains(line, unit) && !strings.Contains(line, "is not executable") && !strings.Contains(line, "resolved.service not found") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

func TestADropInComesAndGoes(t *testing.T) {
	root := t.TempDir()
	server := netip.MustParseAddrPort("127.63.0.53:5354")
	d, err := For(root, "postern.internal", server)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := d.Install(); !changed || err != nil || !d.Installed() {
		t.Errorf("%v, %v", changed, err)
	}
	if changed, err := d.Install(); changed || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	if changed, err := d.Uninstall(); !changed || err != nil || d.Installed() {
		t.Errorf("%v, %v", changed, err)
	}
	if changed, err := d.Uninstall(); changed || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
}

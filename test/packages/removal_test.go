package packages

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

const (
	patience = 20 * time.Second
	silence  = 300 * time.Millisecond
	own      = "10.77.0.1" // the machine's address on its cable
)

// stranger is somebody else at the other end of the machine's cable.
type stranger struct {
	t  *testing.T
	ns *testkit.Namespace
}

// visit gives the machine a cable, something that listens, and a stranger.
func (m *machine) visit() stranger {
	m.t.Helper()
	s := stranger{m.t, testkit.Netns(m.t)}
	testkit.Cable(m.t, m.ns, "eth0", []string{own + "/24"}, s.ns, "eth0", []string{"10.77.0.2/24"})
	var l net.Listener
	var err error
	m.ns.Do(m.t, func() { l, err = net.Listen("tcp4", own+":2222") })
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Close() })
	return s
}

// sees reports whether the stranger gets an answer from what listens.
func (s stranger) sees(within time.Duration) bool {
	s.t.Helper()
	var c net.Conn
	var err error
	s.ns.Do(s.t, func() { c, err = net.DialTimeout("tcp4", own+":2222", within) })
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// kernel returns every rule and set of the machine, in small letters.
func (m *machine) kernel() string {
	m.t.Helper()
	var all strings.Builder
	for _, command := range []string{"nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ipset list"} {
		fields := strings.Fields(command)
		all.WriteString(m.ns.Run(m.t, fields[0], fields[1:]...))
	}
	return strings.ToLower(all.String())
}

// left lists the files that have to do with Postern, but for the packages themselves.
func (m *machine) left() string {
	m.t.Helper()
	return strings.TrimSpace(m.run("find", "/", "-xdev", "-name", "*postern*", "-not", "-path", "/root/*", "-not", "-path",
		"/proc/*"))
}

// TestRemovingOpensAProtectedMachine, with the programs and rules that are really there:
// whichever package, backend and name it is, a port answers again, the kernel has no trace
// of ours, and after a purge the disk has none.
func TestRemovingOpensAProtectedMachine(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	files := make(map[string]string)
	for _, file := range m.carry(build(t, "1.0.0", "deb")) {
		for _, name := range []string{"postern-host", "postern-controller"} {
			if strings.Contains(file, "/"+name+"_") {
				files[name] = file
			}
		}
	}
	out := m.visit()
	for _, test := range []struct{ name, pack, firewall string }{
		{"the host's nftables", "postern-host", "backend = \"nftables\""},
		{"the host's iptables", "postern-host", "backend = \"iptables\""},
		{"the controller's nftables of another name", "postern-controller", "backend = \"nftables\"\ntable = \"gatehouse\""},
		{"the controller's iptables", "postern-controller", "backend = \"iptables\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.run("dpkg", "-i", files[test.pack])
			if test.pack == "postern-host" {
				m.write("/etc/postern/host.toml", "[firewall]\n"+test.firewall+"\n", 0o644)
				m.run("postern-host", "protect", "--now", "--yes")
			} else {
				m.run("postern-controller", "init", "--name", "gate.example")
				m.write("/etc/postern/controller.toml", "name = \"gate.example\"\n[firewall]\n"+test.firewall+"\n", 0o644)
				m.run("postern-controller", "firewall", "up")
			}
			if out.sees(silence) {
				t.Fatal("the machine is not protected")
			}
			said := m.run("dpkg", "-r", test.pack)
			if !out.sees(patience) {
				t.Errorf("after the removal nothing answers:\n%s\n%s", said, m.kernel())
			}
			if rules := m.kernel(); strings.Contains(rules, "postern") || strings.Contains(rules, "gatehouse") {
				t.Errorf("left in the kernel:\n%s", rules)
			}
			m.run("dpkg", "-P", test.pack)
			if left := m.left(); left != "" {
				t.Errorf("left on the disk:\n%s", left)
			}
		})
	}
}

//go:build linux

package iptables_test

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/iptables"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/testkit"
)

// lan is a host that others' rules are on, a client, and a container behind the
// host whose port 80 the host publishes as 8080 where rules say so:
//
//	client 192.0.2.2 2001:db8::2 ── 192.0.2.1 2001:db8::1 host docker0 10.77.0.1 ── 10.77.0.2 box
type lan struct{ host, client, box *testkit.Namespace }

const (
	doorPort      = 4042 // has pinholes
	sshPort       = 22   // others let everybody in
	publishedPort = 8080
	boxPort       = 80
)

func newLAN(t *testing.T) lan {
	t.Helper()
	testkit.RequireRoot(t)
	l := lan{testkit.Netns(t), testkit.Netns(t), testkit.Netns(t)}
	testkit.Cable(t, l.host, testkit.Interface, []string{"192.0.2.1/24", "2001:db8::1/64"},
		l.client, testkit.Interface, []string{"192.0.2.2/24", "2001:db8::2/64"})
	testkit.Cable(t, l.host, "docker0", []string{"10.77.0.1/24"}, l.box, "eth0", []string{"10.77.0.2/24"})
	l.host.Sysctl(t, "ipv4/ip_forward", "1")
	l.box.Route(t, "default4", "10.77.0.1")
	echo(t, l.host, doorPort)
	echo(t, l.host, sshPort)
	echo(t, l.box, boxPort)
	return l
}

// echo answers datagrams and closes connections at once, until the test ends.
func echo(t *testing.T, n *testkit.Namespace, port int) {
	t.Helper()
	var udp *net.UDPConn
	var tcp net.Listener
	n.Do(t, func() {
		var err error
		if udp, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go func() {
		buffer := make([]byte, 64)
		for {
			k, from, err := udp.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			udp.WriteToUDPAddrPort(buffer[:k], from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// soonReaches is reaches where it should be true: a busy machine is given a while.
func (l lan) soonReaches(t *testing.T, p firewall.Protocol, host string, port uint16) bool {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 10*time.Second; {
		if l.reaches(t, p, host, port) {
			return true
		}
	}
	return false
}

// looking returns the look that suits what is wanted.
func (l lan) looking(wanted bool) func(*testing.T, firewall.Protocol, string, uint16) bool {
	if wanted {
		return l.soonReaches
	}
	return l.reaches
}

// reaches reports whether the client gets an answer.
func (l lan) reaches(t *testing.T, p firewall.Protocol, host string, port uint16) bool {
	t.Helper()
	return reaches(t, l.client, p, netip.AddrPortFrom(netip.MustParseAddr(host), port))
}

func reaches(t *testing.T, from *testkit.Namespace, p firewall.Protocol, to netip.AddrPort) bool {
	t.Helper()
	var c net.Conn
	var err error
	from.Do(t, func() { c, err = net.DialTimeout(p.String(), to.String(), 300*time.Millisecond) })
	if err != nil {
		return false
	}
	defer c.Close()
	if p == firewall.TCP {
		return true
	}
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	c.Write([]byte("x"))
	_, err = c.Read(make([]byte, 1))
	return err == nil
}

func hosts() map[string]string {
	return map[string]string{"192.0.2.1": "192.0.2.2", "2001:db8::1": "2001:db8::2"}
}

// wantOnlyPinholes fails unless the client is let in where it has a pinhole, and
// nowhere else, whatever the others' rules say.
func (l lan) wantOnlyPinholes(t *testing.T, f firewall.Firewall, when string) {
	t.Helper()
	for host, client := range hosts() {
		for _, p := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
			if l.reaches(t, p, host, doorPort) || l.reaches(t, p, host, sshPort) {
				t.Errorf("%s: %s is not dark to %s without a pinhole", when, host, p)
			}
			hole := pinhole(p, client, doorPort)
			open(t, f, hole)
			if !l.soonReaches(t, p, host, doorPort) {
				t.Errorf("%s: a pinhole for %s does not let in to %s", when, p, host)
			}
			if err := f.Apply(t.Context(), firewall.Change{Revoke: []firewall.Pinhole{hole}}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// wantRestored fails unless Remove brings everything back as it was.
func (l lan) wantRestored(t *testing.T, f firewall.Firewall, v iptables.Variant, before string) {
	t.Helper()
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, l.everything(t, v)); diff != "" {
		t.Errorf("before (-), after Remove (+):\n%s", diff)
	}
}

func (l lan) everything(t *testing.T, v iptables.Variant) string {
	t.Helper()
	return saved(t, l.host, v) + l.host.Run(t, "nft", "--stateless", "list", "ruleset") +
		l.host.Run(t, "ipset", "list", "-name")
}

// wantKnown fails unless the survey sees our rules, and nothing in their way.
func (l lan) wantKnown(t *testing.T, v iptables.Variant) {
	t.Helper()
	var m *survey.Machine
	var err error
	l.host.Do(t, func() { m, err = survey.Look(t.Context(), survey.Config{Name: "postern"}) })
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Ours) != 1 || m.Ours[0] != survey.Variant("iptables-"+string(v)) || !m.OursForward {
		t.Errorf("the survey finds %v, forwarding %t", m.Ours, m.OursForward)
	}
	if all := m.Obstacles(survey.Probe{Protocol: "udp", Port: doorPort}); len(all) > 0 {
		t.Errorf("the survey says that there is something in our way: %+v", all)
	}
}

// TestUFWNeitherLetsInNorKeepsOut runs the real one, on a copy of its files. It
// uses the system's variant of iptables.
func TestUFWNeitherLetsInNorKeepsOut(t *testing.T) {
	l := newLAN(t)
	dir := t.TempDir()
	l.host.Run(t, "cp", "-a", "/etc/ufw", filepath.Join(dir, "etc"))
	l.host.Run(t, "cp", "-a", "/etc/default/ufw", filepath.Join(dir, "default"))
	ufw := func(args string) {
		t.Helper()
		l.host.Run(t, "unshare", "-m", "sh", "-ec", "mount --bind "+dir+"/etc /etc/ufw && mount --bind "+
			dir+"/default /etc/default/ufw && mount -t tmpfs none /run && ufw "+args)
	}
	ufw("allow 22")
	ufw("--force enable")
	f := newFirewall(t, l.host, iptables.Config{})
	before := l.everything(t, f.Variant())
	if !l.soonReaches(t, firewall.TCP, "192.0.2.1", sshPort) || l.reaches(t, firewall.UDP, "192.0.2.1", doorPort) {
		t.Fatal("ufw does not do what this test is about")
	}
	install(t, f, firewall.Rules{})
	l.wantOnlyPinholes(t, f, "with ufw")
	l.wantKnown(t, f.Variant())
	for _, command := range []string{"reload", "allow 4042/udp", "delete allow 4042/udp"} {
		ufw(command)
		l.wantOnlyPinholes(t, f, "after ufw "+command)
	}
	l.wantRestored(t, f, f.Variant(), before)
	if !l.soonReaches(t, firewall.TCP, "192.0.2.1", sshPort) || l.reaches(t, firewall.UDP, "192.0.2.1", doorPort) {
		t.Error("ufw does not do what it did")
	}
	install(t, f, firewall.Rules{})
	ufw("disable")
	l.wantOnlyPinholes(t, f, "after ufw disable")
	ufw("--force enable")
	if err := f.Apply(t.Context(), firewall.Change{Revoke: []firewall.Pinhole{
		pinhole(firewall.TCP, "192.0.2.2", doorPort)}}); err != nil {
		t.Errorf("after ufw was enabled again: %v", err)
	}
	install(t, f, firewall.Rules{})
	l.wantOnlyPinholes(t, f, "with ufw enabled again")
}

// docker is what it makes for one container with a published port, with a rule of
// the administrator's own; a policy of DROP for what is forwarded is its own too.
const docker = `*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.77.0.0/24 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.77.0.2:80
-A DOCKER ! -i docker0 -p udp -m udp --dport 8080 -j DNAT --to-destination 10.77.0.2:80
COMMIT
*filter
:FORWARD DROP
:DOCKER -
:DOCKER-USER -
:DOCKER-ISOLATION-STAGE-1 -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 10.77.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 10.77.0.2/32 ! -i docker0 -o docker0 -p udp -m udp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
COMMIT
*mangle
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A INPUT -p udp -m udp --dport 4042 -j MARK --set-xmark 0x7/0xffffffff
COMMIT
`

func TestContainersPortsAreDarkBesideDockersRules(t *testing.T) {
	for _, v := range variants() {
		for name, rules := range map[string]string{"docker": docker,
			// Nothing but our rules lets forwarded packets to the container in.
			"drop": strings.NewReplacer("-A FORWARD -o docker0 -j DOCKER\n", "",
				"-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n", "",
				"-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", "").Replace(docker),
		} {
			t.Run(string(v)+" "+name, func(t *testing.T) { besideDocker(t, v, rules, name == "docker") })
		}
	}
}

func besideDocker(t *testing.T, v iptables.Variant, rules string, published bool) {
	l := newLAN(t)
	touchTables(t, l.host, v)
	load(t, l.host, "iptables-"+string(v)+"-restore", rules)
	if look := l.looking(published); look(t, firewall.TCP, "192.0.2.1", publishedPort) != published {
		t.Fatalf("the container is not reached: %t: nothing is tested", published)
	}
	echo(t, l.client, sshPort)
	before := l.everything(t, v)
	f := newFirewall(t, l.host, iptables.Config{Variant: v})
	install(t, f, firewall.Rules{Inside: []string{"docker*"}})
	l.wantOnlyPinholes(t, f, "beside docker")
	l.wantKnown(t, v)
	for _, p := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
		if l.reaches(t, p, "192.0.2.1", publishedPort) {
			t.Errorf("the published port is not dark to %s", p)
		}
		open(t, f, pinhole(p, "192.0.2.2", publishedPort))
		for range 2 { // with the rules that a new door gets, and with those of Install
			if !l.soonReaches(t, p, "192.0.2.1", publishedPort) {
				t.Errorf("a pinhole for %s does not let in to the container", p)
			}
			install(t, f, firewall.Rules{Inside: []string{"docker*"}})
		}
	}
	if reaches(t, l.box, firewall.TCP, netip.MustParseAddrPort("192.0.2.2:22")) != published {
		t.Errorf("whether the container gets out is not what others' rules say: %t", published)
	}
	// Rules of others behind ours in the same table see what we let pass.
	open(t, f, pinhole(firewall.UDP, "192.0.2.2", doorPort))
	if !l.soonReaches(t, firewall.UDP, "192.0.2.1", doorPort) {
		t.Error("a pinhole does not let in")
	}
	marks := l.host.Run(t, "iptables-"+string(v), "-t", "mangle", "-vxnL", "INPUT")
	for line := range strings.Lines(marks) {
		if strings.Contains(line, "MARK") && strings.Fields(line)[0] == "0" {
			t.Errorf("a rule behind ours saw nothing: %s", line)
		}
	}
	l.wantRestored(t, f, v, before)
	if look := l.looking(published); look(t, firewall.TCP, "192.0.2.1", publishedPort) != published {
		t.Error("others' rules do not do what they did")
	}
}

// TestFlushingTheFilterLeavesTheHostDark is what admins do when nothing works.
func TestFlushingTheFilterLeavesTheHostDark(t *testing.T) {
	for _, v := range variants() {
		t.Run(string(v), func(t *testing.T) {
			l := newLAN(t)
			f := newFirewall(t, l.host, iptables.Config{Variant: v})
			install(t, f, firewall.Rules{})
			for _, command := range []string{"-P INPUT ACCEPT", "-F", "-X", "-t nat -F"} {
				for _, program := range []string{"iptables-", "ip6tables-"} {
					l.host.Run(t, "sh", "-c", program+string(v)+" "+command)
				}
			}
			for host := range hosts() {
				if l.reaches(t, firewall.TCP, host, sshPort) || l.reaches(t, firewall.UDP, host, doorPort) {
					t.Errorf("%s is not dark", host)
				}
			}
			err := f.Apply(t.Context(), firewall.Change{Open: []firewall.Pinhole{
				pinhole(firewall.UDP, "192.0.2.2", doorPort)}})
			if !errors.Is(err, firewall.ErrNotInstalled) {
				t.Errorf("apply: %v, want ErrNotInstalled", err)
			}
			install(t, f, firewall.Rules{})
			l.wantOnlyPinholes(t, f, "after Install")
		})
	}
}

// TestRemoveTakesWhatCameWithOurRulesAndNothingElse is about tables and built-in
// chains that iptables-nft makes by the way.
func TestRemoveTakesWhatCameWithOurRulesAndNothingElse(t *testing.T) {
	for name, test := range map[string]struct{ before, meanwhile string }{
		"nothing was there":      {},
		"one chain was there":    {before: "iptables-nft -t mangle -A PREROUTING -j MARK --set-mark 1"},
		"a rule came":            {meanwhile: "iptables-nft -t mangle -A INPUT -j ACCEPT"},
		"a chain came":           {meanwhile: "ip6tables-nft -t filter -N own"},
		"a policy came":          {meanwhile: "iptables-nft -P FORWARD DROP"},
		"a chain of nft came":    {meanwhile: "nft add chain ip filter own"},
		"a base chain came":      {meanwhile: "iptables-nft -t mangle -A POSTROUTING -j ACCEPT"},
		"a policy and no rule":   {before: "ip6tables-nft -P INPUT DROP"},
		"a user's jump to a set": {before: "ipset create own hash:ip; iptables-nft -A INPUT -m set --match-set own src -j DROP"},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.RequireRoot(t)
			n := testkit.Netns(t)
			run := func(command string) {
				if command != "" {
					n.Run(t, "sh", "-ec", command)
				}
			}
			f := newFirewall(t, n, iptables.Config{Variant: iptables.NFT})
			run(test.before)
			want := n.Run(t, "nft", "--stateless", "list", "ruleset")
			for range 2 {
				install(t, f, firewall.Rules{})
				open(t, f, pinhole(firewall.UDP, "192.0.2.2", doorPort))
				install(t, f, firewall.Rules{})
				run(test.meanwhile)
				if err := f.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := n.Run(t, "nft", "--stateless", "list", "ruleset")
				if test.meanwhile != "" {
					fields := strings.Fields(test.meanwhile)
					if strings.Contains(got, "POSTERN") || !strings.Contains(got, strings.ToLower(fields[len(fields)-1])) {
						t.Errorf("after Remove:\n%s", got)
					}
					return
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("before (-), after Remove (+):\n%s", diff)
				}
			}
		})
	}
}

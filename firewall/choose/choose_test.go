//go:build linux

package choose

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/testkit"
)

const name = "postern"

// memory is a backend in memory that notes what is done to it.
type memory struct {
	label    string
	did      *[]string
	pinholes []firewall.Pinhole
	fail     error // of Install
}

func (m *memory) note(what string) { *m.did = append(*m.did, m.label+" "+what) }

func (m *memory) Install(context.Context, firewall.Rules) error {
	m.note("install")
	return m.fail
}

func (m *memory) Apply(_ context.Context, c firewall.Change) error {
	m.note(fmt.Sprintf("open %d", len(c.Open)))
	m.pinholes = append(m.pinholes, c.Open...)
	return nil
}

func (m *memory) List(context.Context) ([]firewall.Pinhole, error) { return m.pinholes, nil }

func (m *memory) Dropped(context.Context) (firewall.Dropped, error) { return firewall.Dropped{}, nil }

func (m *memory) Remove(context.Context) error { m.note("remove"); return nil }

func (m *memory) Close() error { return nil }

// machine surveys a namespace in which text was given to a program.
func machine(t *testing.T, text, program string) *survey.Machine {
	t.Helper()
	n := testkit.Netns(t)
	if program != "" {
		feed(t, n, text, program)
	}
	return lookIn(t, n)
}

func lookIn(t *testing.T, n *testkit.Namespace) (m *survey.Machine) {
	t.Helper()
	n.Do(t, func() {
		var err error
		if m, err = Look(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	})
	return m
}

func feed(t *testing.T, n *testkit.Namespace, text, program string, args ...string) {
	t.Helper()
	n.Do(t, func() {
		cmd := exec.Command("/usr/sbin/"+program, args...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
	})
}

const (
	dropsAll  = "*filter\n:INPUT DROP\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
	rejects   = "*filter\n:INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT\nCOMMIT\n"
	dropsOne  = "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp --dport 3306 -j DROP\nCOMMIT\n"
	bansOne   = "*filter\n:INPUT ACCEPT\n:f2b-sshd -\n-A INPUT -p tcp --dport 22 -j f2b-sshd\n" + "-A f2b-sshd -s 198.51.100.7 -j REJECT\nCOMMIT\n"
	likeNAT   = "*nat\n:PREROUTING ACCEPT\n:DOCKER -\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n" + "-A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
	docker    = likeNAT + "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:DOCKER-USER -\n-A FORWARD -j DOCKER-USER\nCOMMIT\n"
	oursThere = "*filter\n:INPUT ACCEPT\n:POSTERN-INPUT -\n-A INPUT -j POSTERN-INPUT\nCOMMIT\n"
)

func TestAutoTakesIPTablesWhereItsInputChainDrops(t *testing.T) {
	for _, c := range []struct {
		name, rules, program string
		want                 survey.Variant
	}{
		{"nothing", "", "", survey.NFTables},
		{"policy drop", dropsAll, "iptables-nft-restore", survey.IPTablesNFT},
		{"policy drop, legacy", dropsAll, "iptables-legacy-restore", survey.IPTablesLegacy},
		{"policy drop for IPv6 only", dropsAll, "ip6tables-nft-restore", survey.IPTablesNFT},
		{"reject at the end", rejects, "iptables-nft-restore", survey.IPTablesNFT},
		{"one port dropped", dropsOne, "iptables-legacy-restore", survey.IPTablesLegacy},
		{"one source banned", bansOne, "iptables-nft-restore", survey.NFTables},
		{"docker", docker, "iptables-nft-restore", survey.NFTables},
		{"ours by iptables", oursThere, "iptables-legacy-restore", survey.IPTablesLegacy},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decide(machine(t, c.rules, c.program), Auto)
			if err != nil || got.Variant != c.want || got.Backend != backendOf(c.want) || got.Reason == "" {
				t.Errorf("chose %+v, %v; want %s", got, err, c.want)
			}
			if len(got.Leaves) != 0 {
				t.Errorf("would replace %v", got.Leaves)
			}
		})
	}
}

func TestAnOrderIsFollowedAndSaysWhatItReplaces(t *testing.T) {
	m := machine(t, oursThere, "iptables-legacy-restore")
	got, err := Decide(m, NFTables)
	if err != nil || got.Variant != survey.NFTables ||
		!slices.Equal(got.Leaves, []survey.Variant{survey.IPTablesLegacy}) {
		t.Errorf("nftables: %+v, %v", got, err)
	}
	if got, err := Decide(m, IPTables); err != nil || got.Variant != survey.IPTablesLegacy ||
		len(got.Leaves) != 0 {
		t.Errorf("iptables: %+v, %v", got, err)
	}
	if got, err := Decide(m, None); err != nil || got.Variant != "" || len(got.Leaves) != 0 {
		t.Errorf("none: %+v, %v", got, err)
	}
	if _, err := Decide(m, "ipfw"); !errors.Is(err, ErrBackend) {
		t.Errorf("ipfw: %v", err)
	}
}

func TestARestartDoesNotChangeTheBackend(t *testing.T) {
	n := testkit.Netns(t)
	open(t, n, Config{Backend: NFTables, Name: name}, func(fw firewall.Firewall, _ Choice) {
		must(t, fw.Install(t.Context(), firewall.Rules{}))
	})
	feed(t, n, dropsAll, "iptables-nft-restore")
	if got, err := Decide(lookIn(t, n), Auto); err != nil || got.Variant != survey.NFTables {
		t.Errorf("chose %+v, %v", got, err)
	}
}

func TestAtBootTheChoiceOfTheTimeBeforeHolds(t *testing.T) {
	n := testkit.Netns(t) // others' rules are not there yet
	c := Config{Backend: Auto, Name: name, Last: survey.IPTablesNFT,
		open: func(string, survey.Variant) (firewall.Firewall, error) { return &memory{did: new([]string)}, nil }}
	for _, want := range []struct {
		backend string
		last    survey.Variant
		is      survey.Variant
	}{
		{Auto, survey.IPTablesNFT, survey.IPTablesNFT},
		{Auto, "", survey.NFTables},
		{Auto, "a damaged note", survey.NFTables},
		{NFTables, survey.IPTablesNFT, survey.NFTables},
	} {
		c.Backend, c.Last = want.backend, want.last
		open(t, n, c, func(_ firewall.Firewall, got Choice) {
			if got.Variant != want.is || got.Backend != backendOf(want.is) {
				t.Errorf("%+v: chose %+v", want, got)
			}
		})
	}
}

func TestRulesThatMustBeInForceDoWithoutASurvey(t *testing.T) {
	broken := errors.New("the kernel answers nothing")
	fault := broken
	c := Config{Name: name, Blind: true,
		open: func(string, survey.Variant) (firewall.Firewall, error) { return &memory{did: new([]string)}, nil },
		look: func(context.Context, string) (*survey.Machine, error) { return nil, fault }}
	for _, want := range []struct {
		backend string
		last    survey.Variant
		is      survey.Variant
	}{
		{Auto, survey.IPTablesLegacy, survey.IPTablesLegacy},
		{Auto, survey.NFTables, survey.NFTables},
		{Auto, "", survey.NFTables},
		{NFTables, survey.IPTablesLegacy, survey.NFTables},
		{IPTables, survey.IPTablesLegacy, survey.IPTablesLegacy},
		{IPTables, "", survey.IPTablesNFT},
	} {
		c.Backend, c.Last = want.backend, want.last
		fw, got, err := Open(t.Context(), c)
		if err != nil || fw == nil || got.Variant != want.is || got.Backend != backendOf(want.is) ||
			!strings.Contains(got.Reason, broken.Error()) {
			t.Errorf("%+v: chose %+v, %v", want, got, err)
		}
	}
	fault = firewall.ErrPermission // who may not look may not install either
	if _, _, err := Open(t.Context(), c); !errors.Is(err, fault) {
		t.Errorf("without rights: %v", err)
	}
	c.Blind, fault = false, broken
	if _, _, err := Open(t.Context(), c); !errors.Is(err, broken) {
		t.Errorf("where no rules must be in force: %v", err)
	}
}

func TestTheNewBackendIsUpBeforeTheOldOneGoes(t *testing.T) {
	n := testkit.Netns(t)
	feed(t, n, oursThere, "iptables-nft-restore")
	var did []string
	hole := firewall.Pinhole{Protocol: firewall.UDP, Source: netip.MustParseAddr("192.0.2.9"), Port: 4042,
		TTL: time.Minute}
	fresh := &memory{label: "new", did: &did}
	c := Config{Backend: NFTables, Name: name, open: func(_ string, v survey.Variant) (firewall.Firewall, error) {
		if v == survey.NFTables {
			return fresh, nil
		}
		return &memory{label: "old", did: &did, pinholes: []firewall.Pinhole{hole}}, nil
	}}
	open(t, n, c, func(fw firewall.Firewall, _ Choice) {
		fresh.fail = errors.ErrUnsupported
		if err := fw.Install(t.Context(), firewall.Rules{}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("install: %v", err)
		}
		fresh.fail = nil
		must(t, fw.Install(t.Context(), firewall.Rules{}))
		must(t, fw.Install(t.Context(), firewall.Rules{}))
		if !slices.Equal(fresh.pinholes, []firewall.Pinhole{hole}) {
			t.Errorf("pinholes of the new backend: %v", fresh.pinholes)
		}
	})
	want := []string{"new install", "new install", "new open 1", "old remove", "new install"}
	if !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

func TestAutoDoesWithoutIPTablesWhereItCannotBeUsed(t *testing.T) {
	n := testkit.Netns(t)
	feed(t, n, dropsAll, "iptables-nft-restore")
	c := Config{Name: name, open: func(_ string, v survey.Variant) (firewall.Firewall, error) {
		if v != survey.NFTables {
			return nil, fmt.Errorf("%w: no ipset", ErrNoIPTables)
		}
		return &memory{did: new([]string)}, nil
	}}
	open(t, n, c, func(_ firewall.Firewall, got Choice) {
		if got.Backend != NFTables || !strings.Contains(got.Reason, "no ipset") {
			t.Errorf("chose %+v", got)
		}
	})
	c.Backend = IPTables
	n.Do(t, func() {
		if _, _, err := Open(t.Context(), c); !errors.Is(err, ErrNoIPTables) {
			t.Errorf("ordered: %v", err)
		}
	})
}

// open opens the firewall inside n and closes it behind f.
func open(t *testing.T, n *testkit.Namespace, c Config, f func(fw firewall.Firewall, choice Choice)) {
	t.Helper()
	n.Do(t, func() {
		fw, choice, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		f(fw, choice)
		must(t, fw.Close())
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ufw runs the real ufw in n, on its own copy of its files.
type ufw struct {
	n   *testkit.Namespace
	dir string
}

func newUFW(t *testing.T, n *testkit.Namespace) ufw {
	t.Helper()
	u := ufw{n, t.TempDir()}
	n.Run(t, "cp", "-a", "/etc/ufw", filepath.Join(u.dir, "etc"))
	n.Run(t, "cp", "-a", "/etc/default/ufw", filepath.Join(u.dir, "default"))
	u.run(t, "allow 22/tcp")
	u.run(t, "--force enable")
	return u
}

func (u ufw) run(t *testing.T, args string) {
	t.Helper()
	u.n.Run(t, "unshare", "-m", "sh", "-ec", "mount --bind "+u.dir+"/etc /etc/ufw && mount --bind "+u.dir+
		"/default /etc/default/ufw && mount -t tmpfs none /run && ufw "+args)
}

// lan is a host with a UDP echo on port 4042, and a client.
type lan struct{ host, client *testkit.Namespace }

func newLAN(t *testing.T) lan {
	t.Helper()
	s := testkit.NewSwitch(t)
	l := lan{s.Attach(t, "192.0.2.1/24"), s.Attach(t, "192.0.2.9/24")}
	var echo *net.UDPConn
	l.host.Do(t, func() {
		var err error
		echo, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4042})
		must(t, err)
	})
	done := make(chan struct{})
	t.Cleanup(func() { echo.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:n], from) // a firewall may stop it
		}
	}()
	return l
}

// answered reports whether the client's datagram to the echo comes back.
func (l lan) answered(t *testing.T) bool {
	t.Helper()
	var c net.Conn
	l.client.Do(t, func() {
		var err error
		c, err = net.Dial("udp4", "192.0.2.1:4042")
		must(t, err)
	})
	defer c.Close()
	for range 4 {
		_, err := c.Write([]byte("anybody?"))
		must(t, c.SetReadDeadline(time.Now().Add(150*time.Millisecond)))
		if _, readErr := c.Read(make([]byte, 64)); err == nil && readErr == nil {
			return true
		}
	}
	return false
}

func hole() firewall.Change {
	return firewall.Change{Open: []firewall.Pinhole{{Protocol: firewall.UDP, Port: 4042,
		Source: netip.MustParseAddr("192.0.2.9"), TTL: time.Minute}}}
}

func udpProbe() survey.Probe { return survey.Probe{Protocol: "udp", Port: 4042} }

func TestBesideUFWNFTablesNeedsItsPermission(t *testing.T) {
	l := newLAN(t)
	u := newUFW(t, l.host)
	m := lookIn(t, l.host)
	if got, err := Decide(m, Auto); err != nil || got.Variant != survey.IPTablesNFT ||
		!strings.Contains(got.Reason, "ufw") {
		t.Errorf("auto chose %+v, %v", got, err)
	}
	open(t, l.host, Config{Backend: NFTables, Name: name}, func(fw firewall.Firewall, _ Choice) {
		must(t, fw.Install(t.Context(), firewall.Rules{}))
		must(t, fw.Apply(t.Context(), hole()))
	})
	stopped := lookIn(t, l.host).Obstacles(udpProbe())
	if len(stopped) == 0 || stopped[0].Chain.Owner != survey.UFW || stopped[0].Mend != "ufw allow 4042/udp" ||
		stopped[0].Level != survey.Always {
		t.Errorf("obstacles: %+v", stopped)
	}
	if l.answered(t) {
		t.Error("ufw lets in what the survey says it drops")
	}
	u.run(t, "allow 4042/udp")
	if left := lookIn(t, l.host).Obstacles(udpProbe()); left[0].Level >= survey.Maybe {
		t.Errorf("obstacles after the command that mends it: %+v", left)
	}
	if !l.answered(t) {
		t.Error("the command that mends it does not")
	}
}

// TestTheCommandForFirewalldMendsIt runs the real firewalld, on its own bus and its own
// copy of its files.
func TestTheCommandForFirewalldMendsIt(t *testing.T) {
	n := testkit.Netns(t)
	dir := t.TempDir()
	n.Run(t, "cp", "-a", "/etc/firewalld", dir+"/etc")
	const script = `
mount -t tmpfs none /run && mount -t tmpfs none /var/log && mkdir /run/dbus && mount --bind "$1"/etc /etc/firewalld
dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid >/run/log 2>&1 &
for i in $(seq 200); do firewall-cmd --state >/dev/null 2>&1 && break; sleep 0.1; done
firewall-cmd --state >/dev/null || { cat /run/log; exit 1; }
while read -r command; do sh -ec "$command" >/dev/null && echo done || echo failed; done
`
	var in io.WriteCloser
	var out *bufio.Reader
	n.Do(t, func() {
		// With a process namespace of their own all of them end with the shell.
		cmd := exec.Command("unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script,
			"bash", dir)
		var err error
		in, err = cmd.StdinPipe()
		must(t, err)
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		cmd.Stderr = cmd.Stdout
		out = bufio.NewReader(stdout)
		must(t, cmd.Start())
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		})
	})
	order := func(command string) {
		t.Helper()
		_, err := fmt.Fprintln(in, command)
		must(t, err)
		if said, err := out.ReadString('\n'); err != nil || said != "done\n" {
			t.Fatalf("%s: %q, %v", command, said, err)
		}
	}
	order("true")
	stopped := lookIn(t, n).Obstacles(udpProbe())
	if len(stopped) < 2 || stopped[1].Level != survey.Always || stopped[0].Chain.Owner != survey.Firewalld {
		t.Fatalf("obstacles: %+v", stopped)
	}
	order(stopped[0].Mend)
	for _, o := range lookIn(t, n).Obstacles(udpProbe()) {
		if o.Level >= survey.Maybe {
			t.Errorf("obstacle after %s: %+v", stopped[0].Mend, o)
		}
	}
}

// likeFirewalld has the shape of firewalld's own table: zones by interface, and a
// reject for everything at priority filter + 10.
const likeFirewalld = `table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES {
		iifname vmap { "wlan0" : goto filter_IN_home }
		goto filter_IN_public
	}
	chain filter_IN_home { accept
	}
	chain filter_IN_public {
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
	}
	chain filter_IN_public_allow {
		tcp dport 22 accept
	}
}
`

func TestBesideFirewalldTheSurveyNamesIt(t *testing.T) {
	l := newLAN(t)
	feed(t, l.host, likeFirewalld, "nft", "-f", "-")
	open(t, l.host, Config{Name: name}, func(fw firewall.Firewall, got Choice) {
		if got.Backend != NFTables {
			t.Errorf("chose %+v: iptables' rules do not stand in front of another table's either", got)
		}
		must(t, fw.Install(t.Context(), firewall.Rules{}))
		must(t, fw.Apply(t.Context(), hole()))
	})
	stopped := lookIn(t, l.host).Obstacles(udpProbe())
	want := "firewall-cmd --permanent --add-port=4042/udp && firewall-cmd --reload"
	if len(stopped) != 2 || stopped[0].Chain.Owner != survey.Firewalld || stopped[0].Mend != want ||
		stopped[0].Does != "rejects" {
		t.Errorf("obstacles: %+v", stopped)
	}
	if l.answered(t) {
		t.Error("firewalld lets in what the survey says it rejects")
	}
	l.host.Run(t, "nft", "add", "rule", "inet", "firewalld", "filter_IN_public_allow", "udp", "dport", "4042", "accept")
	if left := lookIn(t, l.host).Obstacles(udpProbe()); len(left) > 0 {
		t.Errorf("obstacles to a port that firewalld lets in: %+v", left)
	}
	if !l.answered(t) {
		t.Error("firewalld does not let in what it should")
	}
}

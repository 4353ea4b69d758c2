//go:build linux

package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// patient is a host with a TCP service for everybody and one on loopback, and a
// stranger beside it.
type patient struct {
	host, stranger *testkit.Namespace
	settings       host.Settings
	port           uint16
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	lan := testkit.NewSwitch(t)
	p := &patient{host: lan.Attach(t, "192.0.2.1/24"), stranger: lan.Attach(t, "192.0.2.9/24")}
	p.settings = host.Defaults()
	p.settings.State, p.settings.StatusSocket = t.TempDir(), t.TempDir()+"/status.sock"
	p.host.Do(t, func() {
		for _, address := range []string{"0.0.0.0:0", "127.0.0.1:0"} {
			l, err := net.Listen("tcp4", address)
			must(t, err)
			t.Cleanup(func() { l.Close() })
			if p.port == 0 {
				p.port = l.Addr().(*net.TCPAddr).AddrPort().Port()
			}
		}
	})
	return p
}

func (p *patient) examine(t *testing.T) (r Report) {
	t.Helper()
	p.host.Do(t, func() { r = Examine(t.Context(), Config{Settings: p.settings}) })
	return r
}

// install puts the real table in place.
func (p *patient) install(t *testing.T) {
	t.Helper()
	fw, err := nft.New(nft.Config{Table: p.settings.Firewall.Table, NetNS: p.host.FD()})
	must(t, err)
	defer fw.Close()
	rules, err := p.settings.Rules()
	must(t, err)
	must(t, fw.Install(t.Context(), rules))
}

// reaches reports whether the stranger gets to the service.
func (p *patient) reaches(t *testing.T) bool {
	t.Helper()
	var err error
	p.stranger.Do(t, func() {
		var c net.Conn
		target := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), p.port).String()
		if c, err = net.DialTimeout("tcp4", target, 300*time.Millisecond); err == nil {
			c.Close()
		}
	})
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func finding(t *testing.T, r Report, name string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no check is called %q", name)
	return Finding{}
}

func TestTheDoctorSeesWhatAStrangerSees(t *testing.T) {
	keep := func(source string, ports ...string) []config.Keep {
		return []config.Keep{{Source: source, Ports: ports}}
	}
	for _, c := range []struct {
		name   string
		table  bool
		others string // read by iptables-restore
		keep   []config.Keep
		want   Sight
		says   string
	}{
		{"nothing in the way", false, "", nil, Visible, "a stranger sees 1 port:"},
		{"somebody else's filter", false, "*filter\n:INPUT DROP\nCOMMIT\n", nil, Hidden, "thanks to other filters"},
		{"our table", true, "", nil, Dark, "a stranger sees nothing"},
		{"kept for a network", true, "", keep("192.0.2.0/28"), Kept, "a stranger sees nothing"},
		{"kept for another port", true, "", keep("0.0.0.0/0", "tcp/1"), Dark, "a stranger sees nothing"},
		{"kept for the world", true, "", keep("0.0.0.0/0"), Visible, "a stranger sees 1 port:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPatient(t)
			p.settings.Keep = c.keep
			if c.others != "" {
				p.host.Do(t, func() {
					cmd := exec.Command("/usr/sbin/iptables-nft-restore")
					cmd.Stdin = strings.NewReader(c.others)
					must(t, cmd.Run())
				})
			}
			if c.table {
				p.install(t)
			}
			r := p.examine(t)
			if len(r.Doors) != 1 || r.Doors[0].Port != p.port || r.Doors[0].Sees != c.want {
				t.Errorf("doors %+v, want tcp/%d %s", r.Doors, p.port, c.want)
			}
			if !strings.Contains(r.Stranger, c.says) {
				t.Errorf("says %q, want %q", r.Stranger, c.says)
			}
			reached := p.reaches(t)
			if want := c.want == Visible || c.want == Kept; reached != want { // 192.0.2.9 is kept
				t.Errorf("the stranger gets through: %t", reached)
			}
		})
	}
}

func TestAPublishedPortIsDarkOnlyUnderRulesThatJudgeForwarding(t *testing.T) {
	p := newPatient(t)
	p.host.Run(t, "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080",
		"-j", "DNAT", "--to-destination", "172.17.0.2:80")
	published := func(r Report) Door {
		i := slices.IndexFunc(r.Doors, func(d Door) bool { return d.Published })
		if i < 0 {
			t.Fatalf("no published door: %+v", r.Doors)
		}
		return r.Doors[i]
	}
	d := published(p.examine(t))
	if d.Port != 8080 || d.Address != "172.17.0.2:80" || d.Sees != Visible {
		t.Errorf("without our table: %+v", d)
	}
	table := "add table inet postern; add chain inet postern input { type filter hook input priority -100; policy drop; }"
	p.host.Run(t, "nft", table)
	e := &examination{Config: Config{Settings: p.settings}, now: time.Now()}
	p.host.Do(t, func() { e.gather(t.Context()) })
	e.installed = true // the rest of the table is of no matter here
	if sees, why := e.publishedSight(d); sees != Visible || why == "" {
		t.Errorf("under a table without a forward chain: %s (%s)", sees, why)
	}
	p.host.Run(t, "nft", "add chain inet postern forward { type filter hook forward priority -100; policy drop; }")
	p.host.Do(t, func() { e.gather(t.Context()) })
	e.installed = true
	if sees, _ := e.publishedSight(d); sees != Dark {
		t.Errorf("under a table that judges forwarding: %s", sees)
	}
}

func TestAFilterThatStopsWhatWeLetInIsAFailureWithItsRemedy(t *testing.T) {
	p := newPatient(t)
	p.settings.Firewall.Backend = host.BackendNFTables
	p.install(t)
	if f := finding(t, p.examine(t), "other filters"); f.State != OK {
		t.Errorf("alone: %+v", f)
	}
	p.host.Run(t, "iptables-nft", "-P", "INPUT", "DROP")
	f := finding(t, p.examine(t), "other filters")
	if f.State != Fail || f.Do != "iptables-nft -I INPUT -p udp --dport 4042 -j ACCEPT" ||
		!strings.Contains(f.Found, "policy of INPUT") {
		t.Errorf("beside a filter that drops: %+v", f)
	}
	p.host.Do(t, func() {
		port := firewall.Port{Protocol: firewall.TCP, Number: p.port}
		f := finding(t, Examine(t.Context(), Config{Settings: p.settings, Port: port}), "other filters")
		if f.State != Fail || !strings.Contains(f.Do, "-p tcp --dport") {
			t.Errorf("asked about %s: %+v", port, f)
		}
	})
	p.host.Run(t, "iptables-nft", strings.Fields(f.Do)[1:]...)
	if f := finding(t, p.examine(t), "other filters"); f.State != OK {
		t.Errorf("after the remedy: %+v", f)
	}
}

func TestATableThatIsSwitchedOffProtectsNobody(t *testing.T) {
	p := newPatient(t)
	p.install(t)
	p.host.Run(t, "nft", "add table inet postern { flags dormant ; }")
	r := p.examine(t)
	if f := finding(t, r, "firewall"); f.State != Fail {
		t.Errorf("firewall: %+v", f)
	}
	if r.Doors[0].Sees != Visible || !p.reaches(t) {
		t.Errorf("doors: %+v", r.Doors)
	}
}

func TestATrialThatIsOverProtectsNobody(t *testing.T) {
	p := newPatient(t)
	fw, err := nft.New(nft.Config{Table: p.settings.Firewall.Table, NetNS: p.host.FD()})
	must(t, err)
	defer fw.Close()
	must(t, fw.Install(t.Context(), firewall.Rules{Trial: 3 * time.Second}))
	if r := p.examine(t); r.Doors[0].Sees == Dark && finding(t, r, "firewall").State != OK {
		t.Errorf("during the trial: %+v", r)
	}
	testkit.Eventually(t, 10*time.Second, "the kernel ends the trial", func() bool { return p.reaches(t) })
	r := p.examine(t)
	if r.Doors[0].Sees != Visible || finding(t, r, "firewall").State != Fail ||
		!strings.Contains(r.Stranger, "a stranger sees 1 port") {
		t.Errorf("after the trial: %+v", r)
	}
}

func TestTheTunnelsPortIsFreeOrOurs(t *testing.T) {
	p := newPatient(t)
	if f := finding(t, p.examine(t), "tunnel port"); f.State != OK {
		t.Errorf("free: %+v", f)
	}
	p.host.Do(t, func() {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 4042})
		must(t, err)
		t.Cleanup(func() { c.Close() })
	})
	if f := finding(t, p.examine(t), "tunnel port"); f.State != Fail || !strings.Contains(f.Found, "udp/4042") {
		t.Errorf("somebody else's: %+v", f)
	}
}

func TestAHostThatIsNotProtectedAsDecidedIsAFailure(t *testing.T) {
	p := newPatient(t)
	state := "on"
	look := func() (r Report) {
		p.host.Do(t, func() {
			r = Examine(t.Context(), Config{Settings: p.settings,
				Protection: func() (string, error) { return state, nil }})
		})
		return r
	}
	if f := finding(t, look(), "firewall"); f.State != Fail {
		t.Errorf("on, without a table: %+v", f)
	}
	state = "off"
	if f := finding(t, look(), "firewall"); f.State != Warn {
		t.Errorf("off, without a table: %+v", f)
	}
	state = "trial"
	p.install(t)
	if f := finding(t, look(), "protection"); f.State != Warn || !strings.Contains(f.Do, "confirm") {
		t.Errorf("on trial: %+v", f)
	}
}

func TestWhatTheControllerSaidIsToldApart(t *testing.T) {
	e := &examination{identity: &control.Enrolled{}, statusErr: host.ErrNotRunning}
	for _, c := range []struct {
		err  error
		says string
	}{
		{control.ErrNoAnswer, "silence"},
		{&control.DeniedError{Text: "host removed"}, "says no: denied by the controller: host removed"},
		{control.ErrNoControl, "control port"},
		{errors.Join(errors.New("one"), errors.New("two")), "one; two"},
	} {
		e.dialErr = c.err
		if f := controller(e); f.State != Fail || !strings.Contains(f.Found, c.says) {
			t.Errorf("%v: %+v", c.err, f)
		}
	}
	e.reached = true
	if f := controller(e); f.State != OK {
		t.Errorf("reached: %+v", f)
	}
}

func TestAClockIsComparedWithWhatKnocksBear(t *testing.T) {
	for offset, want := range map[time.Duration]State{
		0: OK, time.Second: OK, -30 * time.Second: Warn, 89 * time.Second: Warn, -control.Tolerance: Fail, time.Hour: Fail,
	} {
		if f := clockAgainst("clock", offset); f.State != want {
			t.Errorf("%s: %+v, want %s", offset, f, want)
		}
	}
}

func TestAKeepRuleForTheWorldIsWarnedOf(t *testing.T) {
	for source, want := range map[string]State{
		"192.0.2.1": OK, "10.0.0.0/8": OK, "0.0.0.0/0": Warn, "128.0.0.0/1": Warn, "::/0": Warn, "2001:db8::/32": OK,
	} {
		e := &examination{Config: Config{Settings: host.Defaults()}}
		e.Settings.Keep = []config.Keep{{Source: source}}
		if f := keepRules(e); f.State != want {
			t.Errorf("%s: %+v, want %s", source, f, want)
		}
	}
}

func TestAnInterfaceIsNoWideKeep(t *testing.T) {
	door := Door{Protocol: "tcp", Port: 22}
	k := firewall.Keep{Interface: "wg0", Ports: []firewall.Port{{Protocol: firewall.TCP, Number: 22}}}
	if !covers(k, door) || covers(k, Door{Protocol: "udp", Port: 22}) {
		t.Error("the ports of a keep rule are not told apart")
	}
}

func TestSocketsAreReadAsTheKernelWritesThem(t *testing.T) {
	s, ok := parseSocket("   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0")
	if !ok || s.state != stateListen || s.local.String() != "127.0.0.1:22" || s.inode != 12345 {
		t.Errorf("IPv4: %+v %t", s, ok)
	}
	a, err := parseHexAddress("B80D0120000000000000000001000000:0FCA")
	if err != nil || a.String() != "[2001:db8::1]:4042" {
		t.Errorf("IPv6: %s, %v", a, err)
	}
	for _, text := range []string{"", ":", "0100007F", "0100007F:XX", "01:0016", "zz00007F:0016", "0100007F:10016"} {
		if a, err := parseHexAddress(text); err == nil {
			t.Errorf("%q: %s", text, a)
		}
	}
	if _, ok := parseSocket("sl local_address rem_address st"); ok {
		t.Error("the heading is taken for a socket")
	}
}

func TestAReportWithoutRightsSaysSoAndDoesNotGuess(t *testing.T) {
	e := &examination{machineErr: firewall.ErrPermission}
	for _, check := range []func(*examination) Finding{kernel, table, otherFilters, forwarding} {
		if f := check(e); f.State != Skip || f.Do != "run it as root" {
			t.Errorf("%+v", f)
		}
	}
	if sees, _ := e.sight(Door{Protocol: "tcp", Port: 22}, []int{4}); sees != Unsure {
		t.Errorf("a door is %s", sees)
	}
}

func TestRulesOfOursInASavedRuleSetAreAWarning(t *testing.T) {
	for _, test := range []struct {
		saved []string
		state State
		do    string
	}{
		{nil, OK, ""},
		{[]string{"etc/iptables/rules.v4", "etc/iptables/rules.v6"}, Warn,
			"sed -i -e '/POSTERN-/d' -e '/postern-/d' /etc/iptables/rules.v4 /etc/iptables/rules.v6"},
		{[]string{"etc/nftables.conf"}, Warn, "table inet postern"},
	} {
		e := &examination{Config: Config{Settings: host.Defaults()}, saved: test.saved}
		if f := savedRules(e); f.State != test.state || !strings.Contains(f.Do, test.do) {
			t.Errorf("%v: %+v", test.saved, f)
		}
	}
}

func TestTheReportsJSONKeepsItsNames(t *testing.T) {
	var r Report
	r.add(Finding{"clock", Warn, "late", "hurry"})
	r.Doors = []Door{{Protocol: "tcp", Address: "0.0.0.0", Port: 22, Program: "sshd", Sees: Dark}}
	got, err := json.Marshal(r)
	must(t, err)
	const want = `{"checks":[{"name":"clock","state":"warn","found":"late","do":"hurry"}],` +
		`"doors":[{"protocol":"tcp","address":"0.0.0.0","port":22,"program":"sshd","sees":"dark"}],` +
		`"stranger":"","warnings":1,"failures":0}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTheDoctorEndsWhenItIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := host.Defaults()
	s.State, s.StatusSocket = t.TempDir(), t.TempDir()+"/none.sock"
	if r := Examine(ctx, Config{Settings: s}); len(r.Findings) == 0 {
		t.Error("no findings")
	}
}

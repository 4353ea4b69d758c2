//go:build linux

package survey_test

import (
	"bytes"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/internal/testkit"
)

const port = 4042

// house is a machine with a UDP echo on port 4042, and a stranger beside it.
type house struct {
	host, stranger *testkit.Namespace
}

func newHouse(t *testing.T) house {
	t.Helper()
	lan := testkit.NewSwitch(t)
	h := house{
		host:     lan.Attach(t, "192.0.2.1/24", "2001:db8::1/64"),
		stranger: lan.Attach(t, "192.0.2.9/24", "2001:db8::9/64"),
	}
	var echo *net.UDPConn
	h.host.Do(t, func() {
		var err error
		if echo, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}); err != nil {
			t.Fatal(err)
		}
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
	return h
}

// reaches reports whether the stranger's datagram is answered.
func (h house) reaches(t *testing.T, address string) bool {
	t.Helper()
	var c net.Conn
	h.stranger.Do(t, func() {
		var err error
		if c, err = net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(address), port).String()); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	for range 4 {
		if _, err := c.Write([]byte("anybody?")); err != nil {
			return false // a reject's ICMP
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 64)); err == nil {
			return true
		}
	}
	return false
}

func look(t *testing.T, n *testkit.Namespace) *survey.Machine {
	t.Helper()
	var m *survey.Machine
	n.Do(t, func() {
		var err error
		if m, err = survey.Look(t.Context(), survey.Config{Name: "postern"}); err != nil {
			t.Fatal(err)
		}
	})
	for _, u := range m.Unread {
		t.Errorf("unread: %s", u)
	}
	return m
}

// feed gives text to a program's standard input.
func feed(t *testing.T, n *testkit.Namespace, text, program string, args ...string) {
	t.Helper()
	n.Do(t, func() {
		cmd := exec.Command("/usr/sbin/"+program, args...)
		if program == "nft" { // which wants a line's end before a block's
			text = strings.NewReplacer("} }", "\n}\n}\n", "}\n", "\n}\n").Replace(text + "\n")
		}
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
	})
}

// ruleSet is one way to filter, for IPv4 and IPv6 alike.
type ruleSet struct {
	name string
	nft  string // what nft reads
	save string // what iptables-restore reads, of both variants
}

func ruleSets() []ruleSet {
	return []ruleSet{
		{name: "nothing"},
		{name: "policy drop", nft: `table inet own { chain in { type filter hook input priority 0; policy drop;
			meta l4proto ipv6-icmp accept } }`,
			save: "*filter\n:INPUT DROP\nCOMMIT\n"},
		{name: "policy drop, port open", nft: `table inet own { chain in { type filter hook input priority 0; policy drop;
			meta l4proto ipv6-icmp accept; udp dport 4042 accept } }`,
			save: "*filter\n:INPUT DROP\n-A INPUT -p udp -m udp --dport 4042 -j ACCEPT\nCOMMIT\n"},
		{name: "reject at the end", nft: `table inet own { chain in { type filter hook input priority 10;
			ct state established accept; iifname "lo" accept; meta l4proto ipv6-icmp accept
			tcp dport { 22, 80 } accept; reject } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m multiport --dports 22,80 " +
				"-j ACCEPT\n-A INPUT -p udp -j REJECT\nCOMMIT\n"},
		{name: "a jump that comes back", nft: `table inet own { chain else { tcp dport 22 drop; return }
			chain in { type filter hook input priority 0; jump else; accept } }`,
			save: "*filter\n:INPUT ACCEPT\n:own -\n-A INPUT -j own\n-A own -p tcp --dport 22 -j DROP\n" +
				"-A own -j RETURN\n-A INPUT -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n"},
		{name: "a goto that does not come back", nft: `table inet own { chain else { tcp dport 22 accept }
			chain in { type filter hook input priority 0; policy drop; meta l4proto ipv6-icmp accept
			goto else; accept } }`,
			save: "*filter\n:INPUT DROP\n:own -\n-A INPUT -g own\n-A own -p tcp --dport 22 -j ACCEPT\n" +
				"-A INPUT -j ACCEPT\nCOMMIT\n"},
		{name: "a range without the port", nft: `table inet own { chain in { type filter hook input priority 0;
			udp dport 1000-4041 drop; udp dport 4043-65535 drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m udp --dport 1000:4041 -j DROP\nCOMMIT\n"},
		{name: "a range with the port", nft: `table inet own { chain in { type filter hook input priority 0;
			udp dport 4000-4100 drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m udp --dport 4000:4100 -j DROP\nCOMMIT\n"},
		{name: "many ports", nft: `table inet own { chain in { type filter hook input priority 0;
			udp dport { 53, 4000-4100, 5353 } drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m multiport --dports 53,4000:4100,5353 -j DROP\nCOMMIT\n"},
		{name: "all but some ports", nft: `table inet own { chain in { type filter hook input priority 0;
			udp dport != { 53, 4040-4050 } drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m multiport ! --dports 53,4040:4050 -j DROP\nCOMMIT\n"},
		{name: "adjoining ranges", nft: `table inet own { chain in { type filter hook input priority 0;
			udp dport vmap { 4000-4041 : accept, 4042-4100 : drop, 4101-4200 : accept }; accept } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m multiport --dports 4000:4041,4043:4100 -j ACCEPT\n" +
				"-A INPUT -p udp -j DROP\nCOMMIT\n"},
		{name: "a reverse path filter", nft: `table inet own { chain pre { type filter hook prerouting priority -310;
			fib saddr . iif oif missing meta l4proto udp drop } }`,
			save: "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -m rpfilter --invert -j DROP\nCOMMIT\n"},
		{name: "by interface", nft: `table inet own { chain zone { udp dport 4042 accept; meta l4proto udp drop }
			chain in { type filter hook input priority 0; iifname vmap { "lo" : accept, "eth0" : goto zone }
			drop } }`,
			save: "*filter\n:INPUT DROP\n-A INPUT ! -i lo -p udp -j ACCEPT\nCOMMIT\n"},
		{name: "not this interface", nft: `table inet own { chain in { type filter hook input priority 0;
			iifname "wlan*" meta l4proto udp drop; meta l4proto . udp dport { tcp . 4042, udp . 4043 } drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -i wlan+ -j DROP\nCOMMIT\n"},
		{name: "in front of conntrack", nft: `table inet own { chain pre { type filter hook prerouting priority -300;
			meta l4proto . th dport { udp . 4042 } drop } }`,
			save: "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -m udp --dport 4042 -j DROP\nCOMMIT\n"},
		{name: "new flows", nft: `table inet own { chain in { type filter hook input priority 0;
			ct state vmap { established : accept, related : accept, invalid : drop }
			ct state new meta l4proto udp drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" +
				"-A INPUT -p udp -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"},
		{name: "invalid ones only", nft: `table inet own { chain in { type filter hook input priority 0;
			ct state invalid drop; ct state != { established, new } meta l4proto udp drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"},
		{name: "local addresses", nft: `table inet own { chain in { type filter hook input priority 0; policy drop;
			meta l4proto ipv6-icmp accept; fib daddr type local udp dport 4042 accept } }`,
			save: "*filter\n:INPUT DROP\n-A INPUT -p udp -m addrtype --dst-type LOCAL -j ACCEPT\nCOMMIT\n"},
		{name: "multicast only", nft: `table inet own { chain in { type filter hook input priority 0;
			ip daddr 224.0.0.0/4 drop; ip6 daddr ff00::/8 udp dport 4042 drop; meta l4proto udp pkttype multicast drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m addrtype --dst-type MULTICAST -j DROP\nCOMMIT\n"},
		{name: "by direction", nft: `table inet own { chain in { type filter hook input priority 0;
			meta l4proto udp ct direction reply drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m conntrack --ctdir REPLY -j DROP\nCOMMIT\n"},
		{name: "by the other direction", nft: `table inet own { chain in { type filter hook input priority 0;
			meta l4proto udp ct direction original drop } }`,
			save: "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -m conntrack --ctdir ORIGINAL -j DROP\nCOMMIT\n"},
		{name: "the way back", nft: `table inet own { chain out { type filter hook output priority 0;
			udp sport 4042 drop } }`,
			save: "*filter\n:OUTPUT ACCEPT\n-A OUTPUT -p udp -m udp --sport 4042 -j DROP\nCOMMIT\n"},
		{name: "new flows out", nft: `table inet own { chain out { type filter hook output priority 0;
			ct state established accept; meta l4proto udp drop } }`,
			save: "*filter\n:OUTPUT ACCEPT\n-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n" +
				"-A OUTPUT -p udp -j DROP\nCOMMIT\n"},
		{name: "sent elsewhere", nft: `table ip own { chain pre { type nat hook prerouting priority -100;
			udp dport 4042 dnat to 192.0.2.77:9 } }
			table ip6 own { chain pre { type nat hook prerouting priority -100; udp dport 4042 redirect to :9 } }`,
			save: "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -m udp --dport 4042 -j REDIRECT --to-ports 9\nCOMMIT\n"},
	}
}

// TestTheSurveySaysWhatTheKernelDoes asks both about the same packet.
func TestTheSurveySaysWhatTheKernelDoes(t *testing.T) {
	for _, rules := range ruleSets() {
		for _, variant := range []survey.Variant{survey.NFTables, survey.IPTablesNFT, survey.IPTablesLegacy} {
			t.Run(rules.name+" "+string(variant), func(t *testing.T) {
				h := newHouse(t)
				tool := strings.TrimPrefix(string(variant), "iptables-")
				switch {
				case variant == survey.NFTables && rules.nft != "":
					feed(t, h.host, rules.nft, "nft", "-f", "-")
				case variant != survey.NFTables && rules.save != "":
					feed(t, h.host, rules.save, "iptables-"+tool+"-restore")
					feed(t, h.host, strings.Replace(rules.save, "COMMIT\n", neighbours(rules.save)+"COMMIT\n", 1),
						"ip6tables-"+tool+"-restore")
				}
				m := look(t, h.host)
				stopped := map[int]survey.Level{}
				for _, o := range m.Obstacles(survey.Probe{Protocol: "udp", Port: port}) {
					stopped[o.Family] = max(stopped[o.Family], o.Level)
					if o.Chain.Variant != variant {
						t.Errorf("%s is said to be of %s", o.Chain, o.Chain.Variant)
					}
				}
				for family, address := range map[int]string{4: "192.0.2.1", 6: "2001:db8::1"} {
					said := stopped[family]
					if reached := h.reaches(t, address); reached != (said <= survey.Rarely) || said == survey.Maybe {
						t.Errorf("IPv%d: a datagram gets through: %t; the survey: stopped %s", family, reached, said)
					}
				}
			})
		}
	}
}

// neighbours lets neighbour discovery through IPv6's filter.
func neighbours(save string) string {
	if strings.HasPrefix(save, "*filter") && strings.Contains(save, ":INPUT DROP") {
		return "-A INPUT -p ipv6-icmp -j ACCEPT\n"
	}
	return ""
}

func TestASourceThatIsShutOutIsNoObstacleForTheRest(t *testing.T) {
	n := testkit.Netns(t)
	feed(t, n, `*filter
:INPUT ACCEPT
:f2b-sshd -
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A f2b-sshd -s 198.51.100.7/32 -j REJECT
-A f2b-sshd -j RETURN
COMMIT
`, "iptables-nft-restore")
	m := look(t, n)
	if all := m.Obstacles(survey.Probe{Protocol: "udp", Port: port}); len(all) != 0 {
		t.Errorf("obstacles to udp/4042: %+v", all)
	}
	all := m.Obstacles(survey.Probe{Protocol: "tcp", Port: 22})
	if len(all) != 1 || all[0].Level != survey.Rarely || all[0].Chain.Owner != survey.Fail2ban {
		t.Errorf("obstacles to tcp/22: %+v", all)
	}
}

func TestAChainThatCannotBeReadMightDrop(t *testing.T) {
	n := testkit.Netns(t)
	feed(t, n, `table inet own { chain in { type filter hook input priority 0;
		meta l4proto udp ct original proto-dst 4042 drop } }`, "nft", "-f", "-")
	var m *survey.Machine
	n.Do(t, func() {
		var err error
		if m, err = survey.Look(t.Context(), survey.Config{Name: "postern"}); err != nil {
			t.Fatal(err)
		}
	})
	all := m.Obstacles(survey.Probe{Protocol: "udp", Port: port})
	if len(all) == 0 || all[0].Level < survey.Maybe {
		t.Errorf("obstacles: %+v; unread: %q", all, m.Unread)
	}
}

func TestPortsThatContainersPublishAreFound(t *testing.T) {
	docker := `*nat
:PREROUTING ACCEPT
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
`
	for _, variant := range []string{"nft", "legacy"} {
		n := testkit.Netns(t)
		feed(t, n, docker, "iptables-"+variant+"-restore")
		m := look(t, n)
		want := survey.Published{Protocol: "tcp", First: 8080, Last: 8080, To: "172.17.0.2:80",
			Family: "ip", Owner: survey.Docker}
		if !slices.Equal(m.Published, []survey.Published{want}) {
			t.Errorf("%s: published %+v", variant, m.Published)
		}
		if !slices.Equal(m.Owners, []survey.Owner{survey.Docker}) {
			t.Errorf("%s: owners %v", variant, m.Owners)
		}
	}
	n := testkit.Netns(t)
	feed(t, n, `table ip box { chain pre { type nat hook prerouting priority -100;
		udp dport { 53, 5353 } dnat to 10.88.0.4 } }`, "nft", "-f", "-")
	m := look(t, n)
	if len(m.Published) != 2 || m.Published[0].First != 53 || m.Published[1].First != 5353 ||
		m.Published[0].Protocol != "udp" || m.Published[0].To != "10.88.0.4" {
		t.Errorf("nft: published %+v", m.Published)
	}
}

func TestASurveyChangesNothing(t *testing.T) {
	n := testkit.Netns(t)
	dump := func() string {
		var b bytes.Buffer
		n.Do(t, func() {
			for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
				out, _ := exec.Command("cat", "/proc/net/"+file).CombinedOutput() // may not be there
				b.Write(out)
			}
		})
		return b.String() + n.Run(t, "nft", "list", "ruleset")
	}
	before := dump()
	look(t, n)
	feed(t, n, `table inet own { chain in { type filter hook input priority 0; policy drop; } }`, "nft", "-f", "-")
	with := dump()
	look(t, n)
	if after := dump(); after != with {
		t.Errorf("before:\n%s\nafter:\n%s", with, after)
	}
	if before != "" {
		t.Errorf("a new namespace has rules:\n%s", before)
	}
}

func TestOurOwnRulesAreKnownAndNoObstacle(t *testing.T) {
	n := testkit.Netns(t)
	feed(t, n, `table inet postern { chain input { type filter hook input priority -100; policy drop; } }`,
		"nft", "-f", "-")
	feed(t, n, "*filter\n:INPUT DROP\n:POSTERN-INPUT -\n-A INPUT -j POSTERN-INPUT\nCOMMIT\n",
		"iptables-nft-restore")
	m := look(t, n)
	if !slices.Equal(m.Ours, []survey.Variant{survey.IPTablesNFT, survey.NFTables}) &&
		!slices.Equal(m.Ours, []survey.Variant{survey.NFTables, survey.IPTablesNFT}) {
		t.Errorf("ours: %v", m.Ours)
	}
	if all := m.Obstacles(survey.Probe{Protocol: "udp", Port: port}); len(all) != 0 {
		t.Errorf("obstacles: %+v", all)
	}
	n.Run(t, "iptables-nft", "-I", "INPUT", "-p", "udp", "--dport", "4042", "-j", "DROP")
	all := look(t, n).Obstacles(survey.Probe{Protocol: "udp", Port: port})
	if len(all) != 1 || all[0].Rule != "rule 1 of INPUT" {
		t.Errorf("obstacles with a drop in front of ours: %+v", all)
	}
}

// TestRulesOfPosternsOtherPartAreNotToBeEdited: they are written anew, so who adds a rule
// to them is back where they were.
func TestRulesOfPosternsOtherPartAreNotToBeEdited(t *testing.T) {
	for name, rules := range map[string][]string{
		"nftables": {`table inet postern_controller { chain input { type filter hook input priority -100; policy drop; } }`,
			"nft", "-f", "-"},
		"iptables": {"*mangle\n:POSTERN_CONTROLLER-INPUT -\n-A POSTERN_CONTROLLER-INPUT -j DROP\n" +
			"-A INPUT -j POSTERN_CONTROLLER-INPUT\nCOMMIT\n", "iptables-nft-restore"},
	} {
		t.Run(name, func(t *testing.T) {
			n := testkit.Netns(t)
			feed(t, n, rules[0], rules[1], rules[2:]...)
			all := look(t, n).Obstacles(survey.Probe{Protocol: "udp", Port: port})
			if len(all) == 0 || all[0].Chain.Owner != survey.Postern ||
				!strings.Contains(all[0].Mend, "A controller beside a host agent") {
				t.Errorf("%+v", all)
			}
		})
	}
}

package fwtest

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/firewall"
)

func keepAndOpen(t *testing.T, n *network) {
	serveEcho(t, n.host, portA, portB)
	for _, to := range n.host.addresses() {
		kept := n.client.in(to)
		a, b := netip.AddrPortFrom(to, portA), netip.AddrPortFrom(to, portB)
		for _, p := range protocols() {
			n.install(t, firewall.Rules{OpenPorts: []firewall.Port{{Protocol: p, Number: portA}}})
			for _, s := range []station{n.client, n.neighbour} {
				wantReached(t, s, 0, p, a)
				wantSilence(t, s, 0, other(p), a)
				wantSilence(t, s, 0, p, b)
			}
			n.install(t, firewall.Rules{Keep: []firewall.Keep{{
				Source: netip.PrefixFrom(kept, kept.BitLen()),
				Ports:  []firewall.Port{{Protocol: p, Number: portB}},
			}}})
			wantReached(t, n.client, 0, p, b)
			wantSilence(t, n.client, 0, p, a)
			wantSilence(t, n.client, 0, other(p), b)
			wantSilence(t, n.neighbour, 0, p, b)
		}
		// No ports means everything; host bits of the prefix do not count.
		n.install(t, firewall.Rules{Keep: []firewall.Keep{{
			Source: netip.PrefixFrom(kept, kept.BitLen()-1), // .2 and .3
		}}})
		for _, s := range []station{n.client, n.neighbour} {
			wantReached(t, s, 0, firewall.TCP, a)
			wantReached(t, s, 0, firewall.UDP, b)
			if !ping(t, s, to, soon) {
				t.Errorf("a kept source gets no answer to its ping of %v", to)
			}
			closed := netip.AddrPortFrom(to, portClosed)
			if got := try(t, s, 0, firewall.TCP, closed, soon); got != refused {
				t.Errorf("a kept source at a closed port: %s, want refused", got)
			}
		}
	}
}

// foreign is a rule set that could be anyone's.
const foreign = `
table inet filter {
	set friends {
		type ipv4_addr
		flags timeout
		elements = { 192.0.2.77 timeout 1d }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @friends accept
		tcp dport 9999 counter packets 0 bytes 0 drop
	}
}
table ip nat {
	chain post {
		type nat hook postrouting priority srcnat
		oifname "wan" masquerade
	}
}
table inet postern-not-ours {
	chain c {
		ct state established accept
	}
}
`

func foreignTables(t *testing.T, n *network) {
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "foreign.nft")
	if err := os.WriteFile(file, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	n.host.Run(t, "nft", "-f", file)
	if n.legacy {
		n.loadLegacy(t)
	}
	// Without the time that timed elements have left, which moves by itself.
	dump := func(args ...string) string {
		return n.host.Run(t, "nft", append([]string{"--stateless", "--terse", "list"}, args...)...)
	}
	everything := func() string {
		all := dump("ruleset")
		if n.legacy {
			all += n.dumpLegacy(t)
		}
		return all + n.sets(t)
	}
	tables := [][]string{
		{"table", "inet", "filter"}, {"table", "ip", "nat"}, {"table", "inet", "postern-not-ours"},
		{"set", "inet", "filter", "friends"},
	}
	before := everything()
	var single []string
	for _, args := range tables {
		single = append(single, dump(args...))
	}
	for range 2 {
		n.install(t, firewall.Rules{OpenPorts: []firewall.Port{{Protocol: firewall.UDP, Number: 1}}})
		n.open(t, wide(firewall.UDP, n.client.v4, portA))
		if everything() == before {
			t.Fatal("the dump does not show the firewall: the comparison is worth nothing")
		}
		for i, args := range tables {
			if got := dump(args...); got != single[i] {
				t.Errorf("%v was:\n%s\nis now:\n%s", args, single[i], got)
			}
		}
		if err := n.fw.Remove(ctx); err != nil {
			t.Fatal(err)
		}
		if after := everything(); after != before {
			t.Errorf("before:\n%s\nafter Remove:\n%s", before, after)
		}
	}
}

// foreignLegacy is the same for iptables-legacy.
const foreignLegacy = `
*mangle
-A PREROUTING -i wan -j MARK --set-mark 7
-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:FORWARD DROP
:friends -
-A INPUT -j friends
-A INPUT -p tcp --dport 9999 -j DROP
-A friends -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
`

func (n *network) loadLegacy(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "foreign.save")
	if err := os.WriteFile(file, []byte(foreignLegacy), 0o600); err != nil {
		t.Fatal(err)
	}
	n.host.Run(t, "iptables-legacy-restore", file)
	n.host.Run(t, "ip6tables-legacy-restore", file)
}

func (n *network) dumpLegacy(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		for line := range strings.Lines(n.host.Run(t, program)) {
			if counters := strings.Index(line, " ["); counters > 0 {
				line = line[:counters] + "\n"
			}
			if !strings.HasPrefix(line, "#") { // when it was saved
				all.WriteString(line)
			}
		}
	}
	return all.String()
}

// sets lists the names of IP sets.
func (n *network) sets(t *testing.T) string {
	t.Helper()
	return n.host.Run(t, "ipset", "list", "-name")
}

//go:build linux

package survey

import "testing"

// FuzzSave asks about rules in whatever words: the answer comes, and only a table
// with rules or a policy gives a reason for one.
func FuzzSave(f *testing.F) {
	f.Add("*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 4042 -j ACCEPT\nCOMMIT\n")
	f.Add("*filter\n:INPUT ACCEPT\n:a -\n[1:2] -A INPUT ! -i lo -m comment --comment \"a \\\" b\" -g a\n-A a -j a\n")
	f.Add("*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp -m multiport ! --dports 1:,:9,x -j DNAT --to-destination x\n")
	f.Add("*raw\n:OUTPUT ACCEPT\n-A OUTPUT -s 10.0.0.0/8,x -d ::1 --tcp-flags SYN,ACK SYN -j CT --notrack\n")
	f.Fuzz(func(t *testing.T, text string) {
		m := &Machine{ourPrefix: "POSTERN-", interfaces: []networkInterface{{name: "eth0"}}}
		for _, table := range parseSave(text, "ip", IPTablesLegacy) {
			m.addTable(table)
		}
		m.findPublished()
		for _, protocol := range []string{"udp", "tcp"} {
			for _, o := range m.Obstacles(Probe{Protocol: protocol, Port: 4042}) {
				if o.Rule == "" || o.Does == "" || o.Level == Never || o.Family != 4 {
					t.Errorf("an obstacle without a reason: %+v", o)
				}
			}
		}
	})
}

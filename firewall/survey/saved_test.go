//go:build linux

package survey

import (
	"slices"
	"testing"
	"testing/fstest"
)

func TestSavedFilesWithOurRulesAreFound(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const users = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
	for name, test := range map[string]struct {
		file, text string
		ours       bool
	}{
		"the user's own":           {"etc/iptables/rules.v4", users, false},
		"with ours":                {"etc/iptables/rules.v4", "*mangle\n:POSTERN-INPUT - [0:0]\nCOMMIT\n" + users, true},
		"another name's":           {"etc/iptables/rules.v6", "*mangle\n:POSTERN_LAB-INPUT - [0:0]\nCOMMIT\n", false},
		"sets":                     {"etc/iptables/ipsets", "create postern-doors-t bitmap:port range 0-65535\n", true},
		"sets of others":           {"etc/sysconfig/ipset", "create office hash:ip\nadd office 192.0.2.1\n", false},
		"a table":                  {"etc/nftables.conf", "flush ruleset\n\ntable inet postern {\n\tset doors {\n", true},
		"a table of others":        {"etc/nftables.conf", "# not table inet postern {\ntable inet postern_controller {\n}\n", false},
		"iptables-nft, as nft":     {"etc/nftables.conf", "table ip mangle {\n\tchain POSTERN-INPUT {\n", true},
		"where nobody restores it": {"root/rules.v4", ":POSTERN-INPUT - [0:0]\n", false},
	} {
		got, err := Saved(fstest.MapFS{test.file: file(test.text)}, "postern")
		if err != nil || slices.Contains(got, test.file) != test.ours || len(got) > 1 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

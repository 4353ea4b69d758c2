//go:build linux

package nft_test

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/fwtest"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestConformance(t *testing.T) {
	fwtest.Run(t, func() (firewall.Firewall, error) { return nft.New(nft.Config{}) })
}

// exampleRules have one of everything; testdata/table.nft is the table for them.
func exampleRules() firewall.Rules {
	return firewall.Rules{
		OpenPorts: []firewall.Port{{Protocol: firewall.UDP, Number: 4040}},
		Keep: []firewall.Keep{
			{Source: netip.MustParsePrefix("192.0.2.7/24"),
				Ports: []firewall.Port{{Protocol: firewall.TCP, Number: 22}}},
			{Source: netip.MustParsePrefix("2001:db8::/33")},
			{Interface: "wg0", Ports: []firewall.Port{{Protocol: firewall.UDP, Number: 53}},
				TTL: time.Hour},
			{Source: netip.MustParsePrefix("10.0.0.0/8"), Interface: "br-*"},
		},
		Inside: []string{"docker0", "br-*"},
		Trial:  time.Hour,
	}
}

func newFirewall(t testing.TB, n *testkit.Namespace, cfg nft.Config) *nft.Firewall {
	t.Helper()
	var f *nft.Firewall
	n.Do(t, func() {
		var err error
		if f, err = nft.New(cfg); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// TestTableIsWhatNftWouldMake compares with the same table written for people
// and loaded by nft itself.
func TestTableIsWhatNftWouldMake(t *testing.T) {
	ours, theirs := testkit.Netns(t), testkit.Netns(t)
	f := newFirewall(t, ours, nft.Config{})
	theirs.Run(t, "nft", "-f", filepath.Join("testdata", "table.nft"))
	want := theirs.Run(t, "nft", "--stateless", "list", "ruleset")
	for i := range 3 {
		if i == 1 { // other rules in between
			if err := f.Install(t.Context(), firewall.Rules{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Install(t.Context(), exampleRules()); err != nil {
			t.Fatal(err)
		}
		got := ours.Run(t, "nft", "--stateless", "list", "ruleset")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("install %d: nft's table (-), ours (+):\n%s", i, diff)
		}
	}
}

// TestInstallMendsWhatWasTamperedWith undoes rules added and a table put to sleep.
func TestInstallMendsWhatWasTamperedWith(t *testing.T) {
	n := testkit.Netns(t)
	f := newFirewall(t, n, nft.Config{})
	if err := f.Install(t.Context(), exampleRules()); err != nil {
		t.Fatal(err)
	}
	want := parts(t, n)
	for _, harm := range []string{
		"insert rule inet postern input accept",
		"insert rule inet postern forward accept",
		"insert rule inet postern errors accept",
		"add chain inet postern output { policy accept; }",
		"add table inet postern { flags dormant; }",
		"flush set inet postern trial",
		"add element inet postern keep2 { ipv4 timeout 2h }; delete element inet postern keep2 { ipv6 }",
		"delete chain inet postern input",
	} {
		n.Run(t, "nft", harm)
		if cmp.Equal(want, parts(t, n)) {
			t.Errorf("%q did no harm", harm)
		}
		if err := f.Install(t.Context(), exampleRules()); err != nil {
			t.Fatalf("install after %q: %v", harm, err)
		}
		if diff := cmp.Diff(want, parts(t, n)); diff != "" {
			t.Errorf("install after %q: want (-), got (+):\n%s", harm, diff)
		}
	}
}

// parts are the chains, sets and counters of the only table, in order: one that
// was made anew is listed last.
func parts(t *testing.T, n *testkit.Namespace) []string {
	t.Helper()
	listing := strings.TrimSuffix(n.Run(t, "nft", "--stateless", "list", "ruleset"), "}\n")
	list := strings.Split(listing, "\n\n")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	slices.Sort(list)
	return list
}

// TestATableOfAnOlderVersionIsReplacedWithItsPinholesOpen begins with the table
// of the first version, restored by nft with its live pinholes.
func TestATableOfAnOlderVersionIsReplacedWithItsPinholesOpen(t *testing.T) {
	n := testkit.Netns(t)
	n.Run(t, "nft", "-f", filepath.Join("testdata", "table-1.nft"))
	f := newFirewall(t, n, nft.Config{})
	if err := f.Install(t.Context(), exampleRules()); err != nil {
		t.Fatal(err)
	}
	pinholes, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[firewall.Pinhole]time.Duration)
	for _, p := range pinholes {
		left[p.Opening()] = p.TTL
	}
	for _, want := range []firewall.Pinhole{
		{Protocol: firewall.TCP, Source: netip.MustParseAddr("192.0.2.2"), SourcePort: 20000, Port: 22},
		{Protocol: firewall.UDP, Source: netip.MustParseAddr("2001:db8::2"), Port: 4042},
	} {
		if d := left[want]; d > time.Hour || d < time.Hour-time.Minute {
			t.Errorf("%v is listed with %v left, want an hour", want, d)
		}
	}
	if len(left) != 2 {
		t.Errorf("listed: %v", left)
	}
	doors := n.Run(t, "nft", "list", "set", "inet", "postern", "doors")
	if !strings.Contains(doors, "udp . 9") {
		t.Errorf("a door was forgotten: %s", doors)
	}
	// But for what the sets hold it is now the table of this version.
	got := parts(t, n)
	fresh := testkit.Netns(t)
	if err := newFirewall(t, fresh, nft.Config{}).Install(t.Context(), exampleRules()); err != nil {
		t.Fatal(err)
	}
	for _, part := range parts(t, fresh) {
		if strings.Contains(part, "chain ") && !slices.Contains(got, part) {
			t.Errorf("missing:\n%s", part)
		}
	}
}

// TestATableRestoredFromASavedRulesetIsTakenOver does what an administrator does
// who keeps the whole rule set in a file.
func TestATableRestoredFromASavedRulesetIsTakenOver(t *testing.T) {
	n := testkit.Netns(t)
	f := newFirewall(t, n, nft.Config{})
	if err := f.Install(t.Context(), exampleRules()); err != nil {
		t.Fatal(err)
	}
	p := firewall.Pinhole{Protocol: firewall.TCP, Source: netip.MustParseAddr("192.0.2.2"), Port: 22,
		TTL: time.Hour}
	if err := f.Apply(t.Context(), firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
		t.Fatal(err)
	}
	want := parts(t, n)
	saved := filepath.Join(t.TempDir(), "saved.nft")
	if err := os.WriteFile(saved, []byte(n.Run(t, "nft", "list", "ruleset")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "nft", "flush", "ruleset")
	n.Run(t, "nft", "-f", saved)
	if err := f.Install(t.Context(), exampleRules()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, parts(t, n)); diff != "" {
		t.Errorf("before (-), after (+):\n%s", diff)
	}
	if got, err := f.List(t.Context()); err != nil || len(got) != 1 || got[0].Opening() != p.Opening() {
		t.Errorf("list: %v, %v", got, err)
	}
}

// TestPinholesOfASavedRulesetEndWithTheirBoot does what an administrator does who saves
// the whole rule set, for the next boot to load.
func TestPinholesOfASavedRulesetEndWithTheirBoot(t *testing.T) {
	n := testkit.Netns(t)
	saved := filepath.Join(t.TempDir(), "saved.nft")
	for i, step := range []struct {
		boot string
		open int // after Install
	}{{"1a2b3c4d", 0}, {"1a2b3c4d", 2}, {"5e6f7a8b", 0}, {"5e6f7a8b", 2}} {
		f := newFirewall(t, n, nft.Config{Boot: step.boot})
		if err := f.Install(t.Context(), exampleRules()); err != nil {
			t.Fatal(err)
		}
		if got, err := f.List(t.Context()); err != nil || len(got) != step.open {
			t.Errorf("step %d, boot %s: %v, %v, want %d", i, step.boot, got, err, step.open)
		}
		for _, source := range []string{"192.0.2.2", "2001:db8::2"} {
			p := firewall.Pinhole{Protocol: firewall.TCP, Source: netip.MustParseAddr(source), Port: 22, TTL: time.Hour}
			if err := f.Apply(t.Context(), firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
				t.Fatal(err)
			}
		}
		ruleset := n.Run(t, "nft", "list", "ruleset")
		if strings.Count(ruleset, "set boot_") != 1 {
			t.Errorf("step %d: there is not one mark:\n%s", i, ruleset)
		}
		if err := os.WriteFile(saved, []byte(ruleset), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Run(t, "nft", "flush", "ruleset")
		n.Run(t, "nft", "-f", saved)
	}
}

// TestAKeepRuleOfMonthsIsTheKernelsToEnd: its timeouts may be as long as rules are.
func TestAKeepRuleOfMonthsIsTheKernelsToEnd(t *testing.T) {
	n := testkit.Netns(t)
	rules := firewall.Rules{Keep: []firewall.Keep{
		{Interface: "eth0", TTL: 60 * 24 * time.Hour}, {Interface: "eth1", TTL: math.MaxInt64}}}
	if err := newFirewall(t, n, nft.Config{}).Install(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{"keep0": "expires 59d23h", "keep1": "expires 106751d"} {
		if got := n.Run(t, "nft", "list", "set", "inet", "postern", set); strings.Count(got, want) != 2 {
			t.Errorf("want %s:\n%s", want, got)
		}
	}
}

func TestATableOfSomebodyElseIsRefusedAndLeftAlone(t *testing.T) {
	for _, theirs := range []string{
		"add table inet mine; add set inet mine exact4 { type ipv4_addr; }",
		"add table inet mine; add chain inet mine input { type nat hook postrouting priority 0; }",
	} {
		n := testkit.Netns(t)
		f := newFirewall(t, n, nft.Config{Table: "mine"})
		n.Run(t, "nft", theirs)
		before := n.Run(t, "nft", "list", "ruleset")
		err := f.Install(t.Context(), firewall.Rules{})
		if !errors.Is(err, nft.ErrForeignTable) {
			t.Errorf("%s: %v, want ErrForeignTable", theirs, err)
		}
		if diff := cmp.Diff(before, n.Run(t, "nft", "list", "ruleset")); diff != "" {
			t.Errorf("%s: the failed Install changed (before -, after +):\n%s", theirs, diff)
		}
		// The connection is as good as new after an error.
		n.Run(t, "nft", "delete", "table", "inet", "mine")
		if err := f.Install(t.Context(), firewall.Rules{}); err != nil {
			t.Errorf("%s: install after its removal: %v", theirs, err)
		}
	}
}

func TestNetNSChoosesTheNamespace(t *testing.T) {
	n := testkit.Netns(t)
	f, err := nft.New(nft.Config{Table: "elsewhere", NetNS: n.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Install(t.Context(), firewall.Rules{}); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "nft", "list", "table", "inet", "elsewhere") // fails when it is not there
}

func BenchmarkFirewall(b *testing.B) {
	fwtest.Bench(b, func() (firewall.Firewall, error) { return nft.New(nft.Config{}) })
}

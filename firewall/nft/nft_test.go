//go:build linux

package nft_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
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
		},
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
	want := n.Run(t, "nft", "--stateless", "list", "ruleset")
	for _, harm := range []string{
		"insert rule inet postern input accept",
		"add chain inet postern output { policy accept; }",
		"add table inet postern { flags dormant; }",
		"delete chain inet postern input",
	} {
		n.Run(t, "nft", harm)
		if n.Run(t, "nft", "--stateless", "list", "ruleset") == want {
			t.Errorf("%q did no harm", harm)
		}
		if err := f.Install(t.Context(), exampleRules()); err != nil {
			t.Fatalf("install after %q: %v", harm, err)
		}
		if harm == "delete chain inet postern input" {
			// Made anew, it is listed last.
			n.Run(t, "nft", "delete chain inet postern output")
			if err := f.Install(t.Context(), exampleRules()); err != nil {
				t.Fatal(err)
			}
		}
		got := n.Run(t, "nft", "--stateless", "list", "ruleset")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("install after %q: want (-), got (+):\n%s", harm, diff)
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

func BenchmarkApply(b *testing.B) {
	for _, size := range []int{0, 10_000, 100_000} {
		b.Run("elements="+map[int]string{0: "0", 10_000: "10k", 100_000: "100k"}[size],
			func(b *testing.B) { benchmarkApply(b, size) })
	}
}

func benchmarkApply(b *testing.B, size int) {
	f := newFirewall(b, testkit.Netns(b), nft.Config{})
	ctx := context.Background()
	if err := f.Install(ctx, firewall.Rules{}); err != nil {
		b.Fatal(err)
	}
	p := firewall.Pinhole{Protocol: firewall.UDP, Source: netip.MustParseAddr("10.0.0.0"),
		SourcePort: 40000, Port: 4042, TTL: time.Hour}
	for size > 0 {
		var c firewall.Change
		for ; size > 0 && len(c.Open) < 5000; size-- {
			p.Source = p.Source.Next()
			c.Open = append(c.Open, p)
		}
		if err := f.Apply(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
	p.Source = netip.MustParseAddr("192.0.2.1")
	pinhole := []firewall.Pinhole{p}
	changes := map[string]firewall.Change{"refresh": {Open: pinhole}, "revoke": {Revoke: pinhole}}
	for _, name := range []string{"refresh", "revoke"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := f.Apply(ctx, changes[name]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("open+revoke", func(b *testing.B) {
		for b.Loop() {
			for _, c := range []firewall.Change{{Open: pinhole}, {Revoke: pinhole}} {
				if err := f.Apply(ctx, c); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

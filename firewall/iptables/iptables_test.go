//go:build linux

package iptables_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/fwtest"
	"github.com/postern-sdp/postern/firewall/iptables"
	"github.com/postern-sdp/postern/internal/testkit"
)

var update = flag.Bool("update", false, "write testdata anew")

func variants() []iptables.Variant { return []iptables.Variant{iptables.NFT, iptables.Legacy} }

func TestConformance(t *testing.T) {
	for _, v := range variants() {
		t.Run(string(v), func(t *testing.T) {
			run := fwtest.Run
			if v == iptables.Legacy {
				run = fwtest.RunLegacy
			}
			run(t, func() (firewall.Firewall, error) {
				return iptables.New(iptables.Config{Variant: v})
			})
		})
	}
}

// forEach runs a test with both variants, in a namespace each.
func forEach(t *testing.T, test func(t *testing.T, n *testkit.Namespace, v iptables.Variant)) {
	testkit.RequireRoot(t)
	for _, v := range variants() {
		t.Run(string(v), func(t *testing.T) { test(t, testkit.Netns(t), v) })
	}
}

func newFirewall(t testing.TB, n *testkit.Namespace, cfg iptables.Config) *iptables.Firewall {
	t.Helper()
	var f *iptables.Firewall
	n.Do(t, func() {
		var err error
		if f, err = iptables.New(cfg); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { f.Close() })
	return f
}

func install(t testing.TB, f firewall.Firewall, rules firewall.Rules) {
	t.Helper()
	if err := f.Install(context.Background(), rules); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, f firewall.Firewall, pinholes ...firewall.Pinhole) {
	t.Helper()
	if err := f.Apply(context.Background(), firewall.Change{Open: pinholes}); err != nil {
		t.Fatal(err)
	}
}

func pinhole(p firewall.Protocol, source string, port uint16) firewall.Pinhole {
	return firewall.Pinhole{Protocol: p, Source: netip.MustParseAddr(source), Port: port, TTL: time.Hour}
}

// saved is what the variant's programs save, without times and counters.
func saved(t testing.TB, n *testkit.Namespace, v iptables.Variant) string {
	t.Helper()
	var all strings.Builder
	for _, base := range []string{"iptables-", "ip6tables-"} {
		for _, table := range []string{"mangle", "filter", "nat"} {
			for line := range strings.Lines(n.Run(t, base+string(v)+"-save", "-t", table)) {
				if strings.HasPrefix(line, "#") {
					continue
				}
				if i := strings.Index(line, " ["); i > 0 && strings.HasPrefix(line, ":") {
					line = line[:i] + "\n"
				}
				all.WriteString(line)
			}
		}
	}
	return all.String()
}

// load reads rules with iptables-restore, or ip6tables-restore, without a flush.
func load(t testing.TB, n *testkit.Namespace, program, rules string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Run(t, program, "--noflush", file)
}

// touchTables makes sure that iptables-legacy's tables are there, which come with
// their first use and never go.
func touchTables(t testing.TB, n *testkit.Namespace, v iptables.Variant) {
	t.Helper()
	if v != iptables.Legacy {
		return
	}
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		for _, table := range []string{"mangle", "filter", "nat"} {
			n.Run(t, program, "-t", table, "-S")
		}
	}
}

// exampleRules have one of everything; testdata/rules.save is what is made of them.
func exampleRules() firewall.Rules {
	return firewall.Rules{
		OpenPorts: []firewall.Port{{Protocol: firewall.UDP, Number: 4040}},
		Keep: []firewall.Keep{
			{Source: netip.MustParsePrefix("192.0.2.7/24"),
				Ports: []firewall.Port{{Protocol: firewall.TCP, Number: 22}}},
			{Source: netip.MustParsePrefix("2001:db8::/33"), TTL: time.Hour},
			{Interface: "wg*"},
		},
		Inside: []string{"docker0", "br-*"},
		Trial:  time.Hour,
	}
}

// TestTheRulesAreThoseThatAreWrittenDown for review; both variants have the same.
func TestTheRulesAreThoseThatAreWrittenDown(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		f := newFirewall(t, n, iptables.Config{Variant: v})
		touchTables(t, n, v)
		install(t, f, exampleRules())
		open(t, f, pinhole(firewall.UDP, "192.0.2.1", 4042), pinhole(firewall.TCP, "2001:db8::1", 22))
		install(t, f, exampleRules())
		var got strings.Builder
		for line := range strings.Lines(saved(t, n, v)) {
			if strings.Contains(line, "POSTERN-") && !strings.Contains(line, "POSTERN-N-") {
				got.WriteString(line)
			}
		}
		file := filepath.Join("testdata", "rules.save")
		if *update {
			if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-), ours (+):\n%s", file, diff)
		}
	})
}

// TestHarmIsNoticedAndMended takes one piece away at a time.
func TestHarmIsNoticedAndMended(t *testing.T) {
	harms := []string{
		"%s -t mangle -F INPUT", "%s -t mangle -F", "%s -t filter -F", "%s -t filter -F FORWARD",
		"%s -t mangle -D OUTPUT 1", "%s -t mangle -F POSTERN-FORWARD", "%s -t mangle -F POSTERN-DOOR-IN",
		"%s -t filter -F POSTERN-INPUT", "%s -t filter -F POSTERN-LEAVING",
	}
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		ctx := t.Context()
		f := newFirewall(t, n, iptables.Config{Variant: v})
		install(t, f, exampleRules())
		p := pinhole(firewall.UDP, "192.0.2.1", 4042)
		open(t, f, p)
		install(t, f, exampleRules()) // brings the rules of the door into their order
		want := saved(t, n, v)
		for _, harm := range harms {
			for _, program := range []string{"iptables-" + string(v), "ip6tables-" + string(v)} {
				command := fmt.Sprintf(harm, program)
				n.Run(t, "sh", "-c", command)
				if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); !errors.Is(err,
					firewall.ErrNotInstalled) {
					t.Errorf("apply after %s: %v, want ErrNotInstalled", command, err)
				}
				if _, err := f.List(ctx); !errors.Is(err, firewall.ErrNotInstalled) {
					t.Errorf("list after %s: %v, want ErrNotInstalled", command, err)
				}
				install(t, f, exampleRules())
				if diff := cmp.Diff(sameTimers(want), sameTimers(saved(t, n, v))); diff != "" {
					t.Errorf("install after %s: want (-), got (+):\n%s", command, diff)
				}
				if got, err := f.List(ctx); err != nil || len(got) != 1 {
					t.Errorf("after %s and Install: %v, %v, want the one pinhole", command, got, err)
				}
			}
		}
		// A rule in front of ours is not harm, but Install puts ours in front again.
		n.Run(t, "iptables-"+string(v), "-t", "mangle", "-I", "INPUT", "-p", "udp", "-j", "ACCEPT")
		install(t, f, exampleRules())
		first, _, _ := strings.Cut(n.Run(t, "iptables-"+string(v), "-t", "mangle", "-S", "INPUT"), "-j ACCEPT")
		if !strings.Contains(first, "-j POSTERN-INPUT") {
			t.Errorf("another rule is still in front of ours:\n%s", first)
		}
	})
}

// sameTimers forgets the generation of the timers, which each Install changes.
func sameTimers(rules string) string {
	for g := range 10 {
		rules = strings.ReplaceAll(rules, fmt.Sprintf("postern-k%d-", g), "postern-k-")
	}
	return rules
}

func TestASetThatIsGoneIsNoticed(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		f := newFirewall(t, n, iptables.Config{Variant: v})
		install(t, f, firewall.Rules{})
		p := pinhole(firewall.UDP, "192.0.2.1", 4042)
		open(t, f, p)
		for _, program := range []string{"iptables-", "ip6tables-"} {
			for _, table := range []string{"mangle", "filter"} {
				n.Run(t, program+string(v), "-t", table, "-F")
			}
		}
		testkit.Eventually(t, 5*time.Second, "no rule refers to the sets", func() bool {
			n.Run(t, "sh", "-c", "for s in $(ipset list -name); do ipset destroy $s 2>/dev/null || true; done")
			return n.Run(t, "ipset", "list", "-name") == ""
		})
		if _, err := f.List(t.Context()); !errors.Is(err, firewall.ErrNotInstalled) {
			t.Errorf("list: %v, want ErrNotInstalled", err)
		}
		install(t, f, firewall.Rules{})
		if got, err := f.List(t.Context()); err != nil || len(got) != 0 {
			t.Errorf("after Install: %v, %v, want none", got, err)
		}
		open(t, f, p)
	})
}

// TestSetsThatWereEmptiedAreNoticed: after `ipset flush` no door leads anywhere, though
// every rule and set is there.
func TestSetsThatWereEmptiedAreNoticed(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		f := newFirewall(t, n, iptables.Config{Variant: v})
		install(t, f, firewall.Rules{})
		p := pinhole(firewall.UDP, "192.0.2.7", 4042)
		open(t, f, p)
		n.Run(t, "ipset", "flush")
		if _, err := f.List(t.Context()); !errors.Is(err, firewall.ErrNotInstalled) {
			t.Fatalf("after a flush: %v", err)
		}
		install(t, f, firewall.Rules{})
		open(t, f, p)
		if all, err := f.List(t.Context()); err != nil || len(all) != 1 {
			t.Errorf("installed again: %v, %v", all, err)
		}
	})
}

func TestInstancesOfDifferentNamesDoNotMeet(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		touchTables(t, n, v)
		var all []*iptables.Firewall
		names := []string{"postern", "postern_controller", "p"}
		for _, name := range names {
			f := newFirewall(t, n, iptables.Config{Name: name, Variant: v})
			install(t, f, exampleRules())
			open(t, f, pinhole(firewall.UDP, "192.0.2.1", 4042))
			all = append(all, f)
		}
		front := saved(t, n, v)
		for range 2 { // they do not fight for the first place
			for _, f := range all {
				install(t, f, exampleRules())
			}
		}
		jumps := func(rules string) (list []string) {
			for line := range strings.Lines(rules) {
				if strings.Contains(line, "-never src -j") && !strings.Contains(line, "--comment") {
					list = append(list, line)
				}
			}
			return list
		}
		if diff := cmp.Diff(jumps(front), jumps(saved(t, n, v))); diff != "" {
			t.Errorf("the order of the jumps changed: %s", diff)
		}
		for i, f := range all {
			if err := f.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			rest := saved(t, n, v) + n.Run(t, "ipset", "list", "-name")
			for j, name := range names {
				there := strings.Contains(rest, strings.ToUpper(name)+"-INPUT") &&
					strings.Contains(rest, name+"-u4042-x4\n")
				if there != (j > i) {
					t.Errorf("after the removal of %v, %s is there: %t", names[:i+1], name, there)
				}
			}
			for _, f := range all[i+1:] {
				if got, err := f.List(t.Context()); err != nil || len(got) != 1 {
					t.Errorf("after the removal of %v: %v, %v", names[:i+1], got, err)
				}
			}
		}
	})
}

// TestTheLongestNameFitsWhereNothingWasBefore: there are more chains of ours then than
// where the tables exist.
func TestTheLongestNameFitsWhereNothingWasBefore(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		before := n.Run(t, "nft", "list", "ruleset")
		f := newFirewall(t, n, iptables.Config{Name: "postern_controller", Variant: v})
		install(t, f, exampleRules())
		open(t, f, pinhole(firewall.UDP, "192.0.2.1", 65535))
		if err := f.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := n.Run(t, "nft", "list", "ruleset") + n.Run(t, "ipset", "list", "-name"); after != before {
			t.Errorf("left behind:\n%s", after)
		}
	})
}

func TestNamesThatChainsAndSetsCannotHaveAreRefused(t *testing.T) {
	for _, name := range []string{"Postern", "post-ern", "7", "_", "a b", "ä", "nineteen_characters"} {
		if _, err := iptables.New(iptables.Config{Name: name}); !errors.Is(err, iptables.ErrName) {
			t.Errorf("%q: %v, want ErrName", name, err)
		}
	}
	if _, err := iptables.New(iptables.Config{Variant: "xt"}); !errors.Is(err, iptables.ErrVariant) {
		t.Errorf("variant xt: %v, want ErrVariant", err)
	}
}

func TestAFullSetIsAnErrorAndChangesNothing(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		const capacity = 100
		f := newFirewall(t, n, iptables.Config{Variant: v, Capacity: capacity})
		install(t, f, firewall.Rules{})
		var all []firewall.Pinhole
		source := netip.MustParseAddr("10.0.0.0")
		for range capacity + 1 {
			source = source.Next()
			all = append(all, pinhole(firewall.UDP, source.String(), 4042))
		}
		ctx := t.Context()
		if err := f.Apply(ctx, firewall.Change{Open: all}); !errors.Is(err, iptables.ErrFull) {
			t.Errorf("%d in a set of %d: %v, want ErrFull", len(all), capacity, err)
		}
		if got, err := f.List(ctx); err != nil || len(got) != 0 {
			t.Errorf("%d pinholes are open, %v, want none", len(got), err)
		}
		open(t, f, all[:capacity]...)
		more := firewall.Change{Open: all[capacity:], Revoke: all[:1]}
		if err := f.Apply(ctx, more); !errors.Is(err, iptables.ErrFull) {
			t.Errorf("one more: %v, want ErrFull", err)
		}
		more = firewall.Change{Open: all[capacity-1:]} // one of them is open already
		if err := f.Apply(ctx, more); !errors.Is(err, iptables.ErrFull) {
			t.Errorf("one more, and one that is there: %v, want ErrFull", err)
		}
		if got, err := f.List(ctx); err != nil || len(got) != capacity {
			t.Errorf("%d pinholes are open, %v, want %d", len(got), err, capacity)
		}
	})
}

func TestTooManyDoorsAreAnErrorAndChangeNothing(t *testing.T) {
	f := newFirewall(t, testkit.Netns(t), iptables.Config{Variant: iptables.Legacy})
	install(t, f, firewall.Rules{})
	var all []firewall.Pinhole
	for port := range 1025 {
		all = append(all, pinhole(firewall.TCP, "192.0.2.1", uint16(port+1)))
	}
	if err := f.Apply(t.Context(), firewall.Change{Open: all}); !errors.Is(err, firewall.ErrTooMany) {
		t.Errorf("%d doors: %v, want ErrTooMany", len(all), err)
	}
	if got, err := f.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%d pinholes are open, %v, want none", len(got), err)
	}
}

// TestAPinholeIsNeverLongerThanGranted is about parts of a second.
func TestAPinholeIsNeverLongerThanGranted(t *testing.T) {
	f := newFirewall(t, testkit.Netns(t), iptables.Config{Variant: iptables.NFT})
	install(t, f, firewall.Rules{})
	for granted, want := range map[time.Duration]time.Duration{
		time.Millisecond: time.Second, 59*time.Second + 999*time.Millisecond: 59 * time.Second,
		2 * time.Second: 2 * time.Second, 100 * 365 * 24 * time.Hour: 2147483 * time.Second,
	} {
		p := pinhole(firewall.TCP, "192.0.2.1", 22)
		p.TTL = granted
		open(t, f, p)
		got, err := f.List(t.Context())
		if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		// The kernel rounds down what is left.
		if left := got[0].TTL; left > want || left < want-2*time.Second {
			t.Errorf("granted %v: %v are left, want %v", granted, left, want)
		}
	}
}

// TestPinholesOfSavedSetsEndWithTheirBoot does what netfilter-persistent does with its
// plugin for sets.
func TestPinholesOfSavedSetsEndWithTheirBoot(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		for i, step := range []struct {
			boot string
			open int // after Install
		}{{"1a2b3c4d", 0}, {"1a2b3c4d", 2}, {"5e6f7a8b", 0}, {"5e6f7a8b", 2}} {
			f := newFirewall(t, n, iptables.Config{Variant: v, Boot: step.boot})
			install(t, f, firewall.Rules{})
			if got, err := f.List(t.Context()); err != nil || len(got) != step.open {
				t.Errorf("step %d, boot %s: %v, %v, want %d", i, step.boot, got, err, step.open)
			}
			open(t, f, pinhole(firewall.TCP, "192.0.2.2", 22), pinhole(firewall.TCP, "2001:db8::2", 22))
			rules := saved(t, n, v)
			sets := n.Run(t, "ipset", "save")
			if strings.Count(sets, "create postern-boot") != 1 {
				t.Errorf("step %d: there is not one mark:\n%s", i, sets)
			}
			if err := f.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "sets")
			if err := os.WriteFile(file, []byte(sets), 0o600); err != nil {
				t.Fatal(err)
			}
			n.Run(t, "ipset", "-file", file, "restore")
			half := strings.LastIndex(rules[:strings.LastIndex(rules, "*mangle")], "COMMIT\n") + len("COMMIT\n")
			load(t, n, "iptables-"+string(v)+"-restore", rules[:half])
			load(t, n, "ip6tables-"+string(v)+"-restore", rules[half:])
		}
	})
}

func TestNetNSChoosesTheNamespace(t *testing.T) {
	forEach(t, func(t *testing.T, n *testkit.Namespace, v iptables.Variant) {
		f, err := iptables.New(iptables.Config{Name: "elsewhere", Variant: v, NetNS: n.FD()})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		install(t, f, firewall.Rules{})
		n.Run(t, "iptables-"+string(v), "-t", "mangle", "-S", "ELSEWHERE-INPUT") // fails when it is not there
		n.Run(t, "ipset", "list", "-t", "elsewhere-never")
	})
}

func TestAutoTakesTheVariantOfTheSystem(t *testing.T) {
	n := testkit.Netns(t)
	f := newFirewall(t, n, iptables.Config{})
	want := iptables.Legacy
	if strings.Contains(n.Run(t, "iptables", "--version"), "nf_tables") {
		want = iptables.NFT
	}
	if f.Variant() != want {
		t.Errorf("%s was chosen, want %s", f.Variant(), want)
	}
}

func BenchmarkFirewall(b *testing.B) {
	for _, v := range variants() {
		b.Run(string(v), func(b *testing.B) {
			fwtest.Bench(b, func() (firewall.Firewall, error) {
				return iptables.New(iptables.Config{Variant: v})
			})
		})
	}
}

// BenchmarkOneRuleEach is what pinholes cost without sets: a rule for each.
func BenchmarkOneRuleEach(b *testing.B) {
	for _, v := range variants() {
		b.Run(string(v), func(b *testing.B) {
			fwtest.PacketCost(b, []int{1, 1000, 10_000}, func(b *testing.B, host *testkit.Namespace,
				open []firewall.Pinhole) {
				var rules strings.Builder
				rules.WriteString("*mangle\n")
				for _, p := range open {
					fmt.Fprintf(&rules, "-A INPUT -s %s -p %s --sport %d --dport %d -j ACCEPT\n",
						p.Source, p.Protocol, p.SourcePort, p.Port)
				}
				rules.WriteString("-A INPUT -j DROP\nCOMMIT\n")
				load(b, host, "iptables-"+string(v)+"-restore", rules.String())
			})
		})
	}
}

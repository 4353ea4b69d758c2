//go:build linux

package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func newFirewall(t *testing.T, n *testkit.Namespace, v Variant) *Firewall {
	t.Helper()
	var f *Firewall
	n.Do(t, func() {
		var err error
		if f, err = New(Config{Variant: v}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// failing replaces iptables-restore by a program that fails once, the k-th time.
func failing(t *testing.T, f *Firewall, k int) (mend func()) {
	t.Helper()
	dir := t.TempDir()
	before := f.programs
	for i, real := range before.restore {
		script := fmt.Sprintf("#!/bin/sh\necho x >>%[1]s/count\n"+
			"[ $(wc -l <%[1]s/count) -ne %d ] || exit 7\nexec %s \"$@\"\n", dir, k, real)
		f.programs.restore[i] = filepath.Join(dir, "restore"+strconv.Itoa(i))
		if err := os.WriteFile(f.programs.restore[i], []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func() { f.programs = before }
}

// everything is all rules and sets, but for the generation of timers and what was counted.
func everything(t *testing.T, n *testkit.Namespace, v Variant) string {
	t.Helper()
	var all strings.Builder
	for _, base := range []string{"iptables-", "ip6tables-"} {
		for _, table := range tables() {
			for line := range strings.Lines(n.Run(t, base+string(v)+"-save", "-t", table)) {
				if !strings.HasPrefix(line, "#") {
					line, _, _ = strings.Cut(line, " [")
					all.WriteString(strings.TrimSpace(line) + "\n")
				}
			}
		}
	}
	all.WriteString(n.Run(t, "ipset", "list", "-name"))
	text := all.String()
	for g := range 10 {
		text = strings.ReplaceAll(text, fmt.Sprintf("postern-k%d-", g), "postern-k-")
	}
	return text
}

func hole(port uint16) firewall.Pinhole {
	return firewall.Pinhole{Protocol: firewall.UDP, Source: netip.MustParseAddr("192.0.2.1"), Port: port,
		TTL: time.Hour}
}

// TestAnInstallThatFailsChangesNothing lets it fail at each of its steps.
func TestAnInstallThatFailsChangesNothing(t *testing.T) {
	testkit.RequireRoot(t)
	ctx := t.Context()
	for _, v := range []Variant{NFT, Legacy} {
		for _, there := range []bool{false, true} {
			name := fmt.Sprintf("%s, installed %t", v, there)
			n := testkit.Netns(t)
			f := newFirewall(t, n, v)
			if there {
				first := firewall.Rules{Trial: time.Hour,
					Keep: []firewall.Keep{{Interface: "eth0", TTL: time.Hour}}}
				if err := f.Install(ctx, first); err != nil {
					t.Fatal(err)
				}
				if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{hole(1)}}); err != nil {
					t.Fatal(err)
				}
				if err := f.Install(ctx, first); err != nil {
					t.Fatal(err)
				}
			}
			before := everything(t, n, v)
			failures := 0
			for k := 1; ; k++ {
				mend := failing(t, f, k)
				err := f.Install(ctx, firewall.Rules{Trial: time.Hour, Inside: []string{"br0"}})
				mend()
				if err == nil {
					break
				}
				failures++
				if diff := cmp.Diff(before, everything(t, n, v)); diff != "" {
					t.Fatalf("%s: failed at step %d: before (-), after (+):\n%s", name, k, diff)
				}
			}
			if want := 2; failures < want {
				t.Errorf("%s: %d steps failed, want at least %d", name, failures, want)
			}
			if !there {
				continue
			}
			if got, err := f.List(ctx); err != nil || len(got) != 1 {
				t.Errorf("%s: %v, %v, want the pinhole of before", name, got, err)
			}
		}
	}
}

// TestADoorThatCannotBeMadeOpensNothingAndCanBeTriedAgain lets it fail at each step.
func TestADoorThatCannotBeMadeOpensNothingAndCanBeTriedAgain(t *testing.T) {
	testkit.RequireRoot(t)
	ctx := t.Context()
	for _, v := range []Variant{NFT, Legacy} {
		n := testkit.Netns(t)
		f := newFirewall(t, n, v)
		if err := f.Install(ctx, firewall.Rules{}); err != nil {
			t.Fatal(err)
		}
		for k := range 2 {
			p := hole(uint16(100 + k))
			mend := failing(t, f, k+1)
			err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}})
			mend()
			if err == nil {
				t.Fatalf("%s: step %d did not fail", v, k)
			}
			if got, err := f.List(ctx); err != nil || len(got) != k {
				t.Errorf("%s: after step %d failed: %v, %v, want %d", v, k, got, err, k)
			}
			if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
				t.Errorf("%s: tried again: %v", v, err)
			}
			for _, program := range f.programs.tables {
				for _, table := range tables() {
					for _, c := range []string{doorIn, doorOut, arriving, leaving} {
						rules := n.Run(t, program, "-t", table, "-S", f.name.chain(c))
						if !strings.Contains(rules, f.name.set(doorOf(p).set())+" ") {
							t.Errorf("%s: tried again, %s has no rule in %s of %s", v, p, c, table)
						}
					}
				}
			}
		}
		if err := f.Install(ctx, firewall.Rules{}); err != nil {
			t.Fatal(err)
		}
		if got, err := f.List(ctx); err != nil || len(got) != 2 {
			t.Errorf("%s: after Install: %v, %v, want two", v, got, err)
		}
	}
}

// TestInstallSweepsWhatWasCutShort: an agent killed while it made a door.
func TestInstallSweepsWhatWasCutShort(t *testing.T) {
	n := testkit.Netns(t)
	f := newFirewall(t, n, NFT)
	ctx := t.Context()
	if err := f.Install(ctx, firewall.Rules{}); err != nil {
		t.Fatal(err)
	}
	before := everything(t, n, NFT)
	if err := f.prepareDoorLocked(doorOf(hole(7))); err != nil {
		t.Fatal(err)
	}
	if err := f.startTimersLocked(&writer{rules: firewall.Rules{Trial: time.Hour}, timers: 5}); err != nil {
		t.Fatal(err)
	}
	if err := f.Install(ctx, firewall.Rules{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, everything(t, n, NFT)); diff != "" {
		t.Errorf("before (-), after Install (+):\n%s", diff)
	}
}

// TestOneAtATimeChangesTheRules is about other processes: here, another instance.
func TestOneAtATimeChangesTheRules(t *testing.T) {
	n := testkit.Netns(t)
	f, other := newFirewall(t, n, NFT), newFirewall(t, n, NFT)
	ctx := t.Context()
	unlock, err := other.lockLocked(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hurried, cancel := context.WithTimeoutCause(ctx, 50*time.Millisecond, errors.New("hurry"))
	defer cancel()
	if err := f.Install(hurried, firewall.Rules{}); err == nil || !strings.HasSuffix(err.Error(), "hurry") {
		t.Errorf("install while another is at it: %v, want the context's cause", err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Install(ctx, firewall.Rules{}) }()
	select {
	case err := <-done:
		t.Fatalf("install while another is at it: %v, want it to wait", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("install after the other: %v", err)
	}
}

// TestTheLockOfAKilledOneHoldsNobodyUp: its sockets are all that dies with a process.
func TestTheLockOfAKilledOneHoldsNobodyUp(t *testing.T) {
	n := testkit.Netns(t)
	f, killed := newFirewall(t, n, NFT), newFirewall(t, n, NFT)
	if _, err := killed.lockLocked(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := killed.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lease/2)
	defer cancel()
	if err := f.Install(ctx, firewall.Rules{}); err != nil {
		t.Errorf("install after another was killed: %v", err)
	}
}

// TestTheLockOfAKilledOneWithOurNumberIsOurs: in a container every agent is process 1,
// and its first socket has that number.
func TestTheLockOfAKilledOneWithOurNumberIsOurs(t *testing.T) {
	f := newFirewall(t, testkit.Netns(t), NFT)
	if _, err := f.lockLocked(t.Context()); err != nil { // and never unlocked
		t.Fatal(err)
	}
	if err := f.Install(t.Context(), firewall.Rules{}); err != nil {
		t.Errorf("install after another of this number was killed: %v", err)
	}
}

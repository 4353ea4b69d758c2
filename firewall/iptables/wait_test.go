//go:build linux

package iptables

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// stalling replaces iptables-save by a program that waits until the test goes on.
func stalling(t *testing.T, f *Firewall) (reached func() bool, goOn func()) {
	t.Helper()
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	before := f.programs
	for i, real := range before.save {
		script := fmt.Sprintf("#!/bin/sh\ntouch %[1]s/reached\nread x <%[1]s/gate\nexec %[2]s \"$@\"\n", dir, real)
		f.programs.save[i] = filepath.Join(dir, "save"+strconv.Itoa(i))
		if err := os.WriteFile(f.programs.save[i], []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	reached = func() bool {
		_, err := os.Stat(filepath.Join(dir, "reached"))
		return err == nil
	}
	// Open for reading too, so that it does not wait for a reader; it stays open.
	hold, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close() })
	return reached, func() {
		for range 32 { // more than there are programs
			if _, err := hold.WriteString("x\n"); err != nil {
				t.Error(err)
			}
		}
	}
}

// isOpen asks the kernel alone.
func isOpen(t *testing.T, f *Firewall, p firewall.Pinhole) bool {
	t.Helper()
	elements, err := f.lists.elements(f.setOf(p))
	if err != nil {
		t.Fatal(err)
	}
	return len(elements) > 0
}

// TestNoChangeWaitsForWhoeverReadsTheRules: a scrape of the metrics, or another
// caller that looks whether all rules are there.
func TestNoChangeWaitsForWhoeverReadsTheRules(t *testing.T) {
	testkit.RequireRoot(t)
	ctx := t.Context()
	for _, v := range []Variant{NFT, Legacy} {
		for name, read := range map[string]func(*Firewall) error{
			"dropped": func(f *Firewall) error { _, err := f.Dropped(ctx); return err },
			"list":    func(f *Firewall) error { _, err := f.List(ctx); return err },
		} {
			t.Run(string(v)+" "+name, func(t *testing.T) {
				n := testkit.Netns(t)
				f := newFirewall(t, n, v)
				if err := f.Install(ctx, firewall.Rules{}); err != nil {
					t.Fatal(err)
				}
				p := hole(1)
				if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
					t.Fatal(err)
				}
				passed := bootTime() + 2*readEvery
				f.now = func() time.Duration { return passed }
				reached, goOn := stalling(t, f)
				done := make(chan error, 1)
				go func() { done <- read(f) }()
				testkit.Eventually(t, patience/2, "the rules are being read", reached)
				for range 3 {
					if err := f.Apply(ctx, firewall.Change{Revoke: []firewall.Pinhole{p}}); err != nil {
						t.Error(err)
					}
					if isOpen(t, f, p) {
						t.Error("not revoked")
					}
					if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
						t.Error(err)
					}
					if !isOpen(t, f, p) {
						t.Error("not opened")
					}
				}
				select {
				case err := <-done:
					t.Errorf("the reader was done before: %v", err)
				default:
				}
				goOn()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestOthersRulesCostAChangeNothing: on a busy host somebody changes rules all the time.
func TestOthersRulesCostAChangeNothing(t *testing.T) {
	testkit.RequireRoot(t)
	ctx := t.Context()
	for _, v := range []Variant{NFT, Legacy} {
		n := testkit.Netns(t)
		f := newFirewall(t, n, v)
		if err := f.Install(ctx, firewall.Rules{}); err != nil {
			t.Fatal(err)
		}
		p := hole(1)
		change := firewall.Change{Open: []firewall.Pinhole{p}}
		if err := f.Apply(ctx, change); err != nil {
			t.Fatal(err)
		}
		for i := range f.programs.save {
			f.programs.save[i] = "/bin/false"
		}
		for _, command := range []string{"-A INPUT -s 203.0.113.1 -j DROP", "-t mangle -A INPUT -j ACCEPT", "-N fail2ban",
			"-t nat -N KUBE-SERVICES", "-D INPUT -s 203.0.113.1 -j DROP"} {
			n.Run(t, "sh", "-c", "iptables-"+string(v)+" "+command)
			if err := f.Apply(ctx, change); err != nil {
				t.Errorf("%s: apply after %s: %v", v, command, err)
			}
		}
	}
}

// TestARevocationIsInForceBeforeTheRulesAreLookedAt: also when they are not whole.
func TestARevocationIsInForceBeforeTheRulesAreLookedAt(t *testing.T) {
	testkit.RequireRoot(t)
	ctx := t.Context()
	for _, v := range []Variant{NFT, Legacy} {
		n := testkit.Netns(t)
		f := newFirewall(t, n, v)
		if err := f.Install(ctx, firewall.Rules{}); err != nil {
			t.Fatal(err)
		}
		p := hole(1)
		if err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
			t.Fatal(err)
		}
		n.Run(t, "iptables-"+string(v), "-t", "mangle", "-F", "INPUT")
		reached, goOn := stalling(t, f)
		done := make(chan error, 1)
		go func() {
			done <- f.Apply(ctx, firewall.Change{Revoke: []firewall.Pinhole{p}})
		}()
		testkit.Eventually(t, patience/2, "the rules are being read", reached)
		if isOpen(t, f, p) {
			t.Errorf("%s: not revoked while the rules are read", v)
		}
		goOn()
		if err := <-done; !errors.Is(err, firewall.ErrNotInstalled) {
			t.Errorf("%s: %v, want ErrNotInstalled", v, err)
		}
		err := f.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}})
		if !errors.Is(err, firewall.ErrNotInstalled) || isOpen(t, f, p) {
			t.Errorf("%s: %v, want ErrNotInstalled, and nothing open", v, err)
		}
	}
}

//go:build linux

package iptables

import (
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// TestAKeepRuleOfMonthsEndsOnItsDate has a clock of its own: no month is waited for.
func TestAKeepRuleOfMonthsEndsOnItsDate(t *testing.T) {
	testkit.RequireRoot(t)
	n := testkit.Netns(t)
	f := newFirewall(t, n, NFT)
	passed := time.Duration(0)
	f.now = func() time.Duration { return passed }
	const ttl = 2*longestTimeout + time.Hour // 50 days
	rules := firewall.Rules{Keep: []firewall.Keep{
		{Source: netip.MustParsePrefix("192.0.2.0/24"), TTL: time.Hour},
		{Source: netip.MustParsePrefix("198.51.100.0/24"), TTL: ttl}}}
	if err := f.Install(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	office := timer{0, keepTimer(1)}
	left := func(v6 bool) time.Duration {
		t.Helper()
		elements, err := f.sets.elements(f.name.set(office.set(v6)))
		if err != nil || len(elements) != 2 || elements[0].timeout != elements[1].timeout {
			t.Fatalf("the timer is %v, %v", elements, err)
		}
		return elements[0].timeout
	}
	look := func() error {
		_, err := f.List(t.Context())
		return err
	}
	revoke := func() error {
		return f.Apply(t.Context(), firewall.Change{Revoke: []firewall.Pinhole{hole(1)}})
	}
	for _, step := range []struct {
		passed time.Duration
		do     func() error // what an agent does every few seconds, or a controller at a knock
	}{{0, look}, {24 * 24 * time.Hour, look}, {49 * 24 * time.Hour, revoke}} {
		passed = step.passed
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		for _, v6 := range families() {
			want := min(ttl-passed, longestTimeout)
			if got := left(v6); got > want || got < want-time.Minute {
				t.Errorf("after %v, IPv6 %t: the kernel counts %v, want %v", passed, v6, got, want)
			}
		}
	}
	if len(f.memory.long) != 0 {
		t.Errorf("the kernel has all of the time, and %v wait to be set anew", f.memory.long)
	}
}

package fwtest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func installKeeps(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	p := wide(firewall.UDP, n.client.v4, portA)
	n.open(t, p)
	opened := time.Now()
	n.counted(t, func() {
		for i := range 100 {
			n.install(t, firewall.Rules{OpenPorts: []firewall.Port{
				{Protocol: firewall.TCP, Number: uint16(1 + i%2)}}})
		}
	})
	over := time.Since(opened) // before the look: what is left then is less still
	left, there := list(t, n.fw)[p.Opening()]
	if !there || left > p.TTL-over+20*time.Millisecond {
		t.Errorf("%v after opening for %v, %v are left", over, p.TTL, left)
	}
}

func newInstance(t *testing.T, n *network) {
	serveEcho(t, n.host, portA)
	n.install(t, firewall.Rules{})
	var opened []firewall.Pinhole
	for _, a := range n.client.addresses() {
		for _, p := range protocols() {
			opened = append(opened, wide(p, a, portA), exact(p, netip.AddrPortFrom(a, 20000), portB))
		}
	}
	n.open(t, opened...)
	if err := n.fw.Close(); err != nil {
		t.Fatal(err)
	}
	// As after kill -9: nothing is known but what the kernel holds.
	n.fw = n.newFirewall(t)
	got := list(t, n.fw)
	for _, p := range opened {
		if left := got[p.Opening()]; left > p.TTL || left < p.TTL-soon {
			t.Errorf("%v: the new instance lists it with %v left", p, left)
		}
	}
	if len(got) != len(opened) {
		t.Errorf("the new instance lists %d pinholes, want %d", len(got), len(opened))
	}
	to := netip.AddrPortFrom(n.host.v4, portA)
	wantReached(t, n.client, 0, firewall.TCP, to)
	n.revoke(t, opened...)
	wantSilence(t, n.client, 0, firewall.TCP, to)
	if got := list(t, n.fw); len(got) != 0 {
		t.Errorf("after all were revoked: %v", got)
	}
}

func removeRestores(t *testing.T, n *network) {
	serveEcho(t, n.host, portA)
	ctx := context.Background()
	if err := n.fw.Remove(ctx); err != nil {
		t.Errorf("remove what is not installed: %v", err)
	}
	for range 2 {
		n.install(t, firewall.Rules{})
		n.open(t, wide(firewall.UDP, n.client.v4, portB))
		wantSilence(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(n.host.v4, portA))
		for range 2 {
			if err := n.fw.Remove(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for _, to := range n.host.addresses() {
			wantReached(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(to, portA))
			wantReached(t, n.neighbour, 0, firewall.UDP, netip.AddrPortFrom(to, portA))
			closed := netip.AddrPortFrom(to, portClosed)
			if got := try(t, n.neighbour, 0, firewall.TCP, closed, soon); got != refused {
				t.Errorf("closed port after Remove: %s, want refused", got)
			}
		}
	}
	n.install(t, firewall.Rules{})
	if got := list(t, n.fw); len(got) != 0 {
		t.Errorf("pinholes outlived Remove: %v", got)
	}
}

func closeLeaves(t *testing.T, n *network) {
	serveEcho(t, n.host, portA)
	before := n.connections(t)
	fw := n.newFirewall(t)
	if n.connections(t) <= before {
		t.Fatal("the new instance's connection does not show: counting is worth nothing")
	}
	ctx := context.Background()
	p := wide(firewall.TCP, n.client.v4, portA)
	if err := fw.Install(ctx, firewall.Rules{}); err != nil {
		t.Fatal(err)
	}
	if err := fw.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
		t.Fatal(err)
	}
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(func() {
			if err := fw.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	closing.Wait()
	testkit.Eventually(t, soon, "the connection is closed", func() bool {
		return n.connections(t) == before
	})
	to := netip.AddrPortFrom(n.host.v4, portA)
	wantReached(t, n.client, 0, firewall.TCP, to)
	wantSilence(t, n.neighbour, 0, firewall.TCP, to)

	_, err := fw.List(ctx)
	for name, err := range map[string]error{
		"install": fw.Install(ctx, firewall.Rules{}),
		"apply":   fw.Apply(ctx, firewall.Change{Revoke: []firewall.Pinhole{p}}),
		"list":    err,
		"remove":  fw.Remove(ctx),
	} {
		if !errors.Is(err, firewall.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
}

// connections counts the host's netlink sockets.
func (n *network) connections(t *testing.T) int {
	t.Helper()
	return strings.Count(n.host.read(t, "thread-self/net/netlink"), "\n")
}

func removedBehind(t *testing.T, n *network) {
	ctx := context.Background()
	change := firewall.Change{Open: []firewall.Pinhole{wide(firewall.UDP, n.client.v4, portA)}}
	wantMissing := func(when string) {
		t.Helper()
		if err := n.fw.Apply(ctx, change); !errors.Is(err, firewall.ErrNotInstalled) {
			t.Errorf("apply %s: %v, want ErrNotInstalled", when, err)
		}
		revoke := firewall.Change{Revoke: change.Open}
		if err := n.fw.Apply(ctx, revoke); !errors.Is(err, firewall.ErrNotInstalled) {
			t.Errorf("revoke %s: %v, want ErrNotInstalled", when, err)
		}
		if _, err := n.fw.List(ctx); !errors.Is(err, firewall.ErrNotInstalled) {
			t.Errorf("list %s: %v, want ErrNotInstalled", when, err)
		}
	}
	wantMissing("before Install")
	for range 3 {
		n.install(t, firewall.Rules{})
		n.apply(t, change)
		if got := list(t, n.fw); len(got) != 1 {
			t.Errorf("after Install there is %v", got)
		}
		n.flushRules(t)
		wantMissing("after the table was removed")
	}
}

// flushRules does what an administrator does who wants no firewall at all.
func (n *network) flushRules(t *testing.T) {
	t.Helper()
	n.host.Run(t, "nft", "flush", "ruleset")
	if !n.legacy {
		return
	}
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		for _, table := range []string{"mangle", "filter"} {
			n.host.Run(t, program, "-t", table, "-F")
			n.host.Run(t, program, "-t", table, "-X")
		}
	}
}

func badInput(t *testing.T, n *network) {
	ctx := context.Background()
	n.install(t, firewall.Rules{})
	good := wide(firewall.UDP, n.client.v4, portA)
	n.open(t, good)
	mapped := netip.AddrFrom16(n.client.v4.As16())
	bad := map[string]firewall.Pinhole{
		"zero":      {},
		"protocol":  wide(1, n.client.v4, portA),
		"port":      wide(firewall.TCP, n.client.v4, 0),
		"mapped":    wide(firewall.TCP, mapped, portA),
		"zone":      wide(firewall.TCP, netip.MustParseAddr("fe80::1%eth0"), portA),
		"any":       wide(firewall.TCP, netip.IPv4Unspecified(), portA),
		"multicast": wide(firewall.TCP, netip.MustParseAddr("ff02::1"), portA),
	}
	for name, p := range bad {
		for _, change := range []firewall.Change{
			{Revoke: []firewall.Pinhole{good}, Open: []firewall.Pinhole{p}},
			{Revoke: []firewall.Pinhole{good, p}},
		} {
			if err := n.fw.Apply(ctx, change); err == nil {
				t.Errorf("%s: %+v was accepted", name, change)
			}
		}
	}
	tooMany := firewall.Change{Open: make([]firewall.Pinhole, firewall.MaxChange+1)}
	if err := n.fw.Apply(ctx, tooMany); !errors.Is(err, firewall.ErrTooMany) {
		t.Errorf("%d openings: %v, want ErrTooMany", len(tooMany.Open), err)
	}
	rules := firewall.Rules{Keep: []firewall.Keep{{Source: netip.PrefixFrom(mapped, 128)}}}
	if err := n.fw.Install(ctx, rules); err == nil {
		t.Error("a mapped keep source was accepted")
	}
	cancelled, cancel := context.WithCancelCause(ctx)
	why := errors.New("the test says so")
	cancel(why)
	err := n.fw.Apply(cancelled, firewall.Change{Revoke: []firewall.Pinhole{good}})
	if !errors.Is(err, why) {
		t.Errorf("apply with a cancelled context: %v, want its cause", err)
	}
	if got := list(t, n.fw); len(got) != 1 || got[good.Opening()] == 0 {
		t.Errorf("there is %v, want only %v", got, good)
	}
}

func concurrent(t *testing.T, n *network) {
	ctx := context.Background()
	n.install(t, firewall.Rules{})
	second := n.newFirewall(t)
	const workers, rounds = 8, 25
	var all sync.WaitGroup
	for w := range workers {
		fw := []firewall.Firewall{n.fw, second}[w%2]
		all.Go(func() {
			source := n.client.addresses()[w%2]
			for i := range rounds {
				from, port := netip.AddrPortFrom(source, uint16(1+i)), uint16(portA+w)
				keep, gone := exact(firewall.TCP, from, port), exact(firewall.UDP, from, port)
				keep.TTL = time.Hour // a minute is over too soon on a busy machine
				err := errors.Join(
					fw.Apply(ctx, firewall.Change{Open: []firewall.Pinhole{keep, gone}}),
					fw.Apply(ctx, firewall.Change{Revoke: []firewall.Pinhole{gone}}))
				if i%5 == 0 {
					_, listErr := fw.List(ctx)
					err = errors.Join(err, listErr, fw.Install(ctx, firewall.Rules{}))
				}
				if err != nil {
					t.Errorf("worker %d: %v", w, err)
					return
				}
			}
		})
	}
	all.Wait()
	got := list(t, n.fw)
	for p := range got {
		if p.Protocol != firewall.TCP {
			t.Errorf("left open: %v", p)
		}
	}
	if len(got) != workers*rounds {
		t.Errorf("%d pinholes are open, want %d", len(got), workers*rounds)
	}
}

func fiveThousand(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	var mixed, alike []firewall.Pinhole
	v4, v6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("2001:db8:ffff::")
	for i := range 1250 {
		v4, v6 = v4.Next(), v6.Next()
		mixed = append(mixed, wide(firewall.UDP, v4, portA), wide(firewall.TCP, v6, portA),
			exact(firewall.TCP, netip.AddrPortFrom(v4, uint16(i+1)), portB),
			exact(firewall.UDP, netip.AddrPortFrom(v6, uint16(i+1)), portB))
	}
	for i := range 5000 {
		alike = append(alike, exact(firewall.UDP, netip.AddrPortFrom(v6, uint16(i+1)), portA))
	}
	for _, many := range [][]firewall.Pinhole{mixed, alike} {
		for range 2 { // the second time as a refresh
			began := time.Now()
			n.open(t, many...)
			t.Logf("opened %d in %v", len(many), time.Since(began))
			wantListed(t, n.fw, many)
		}
		n.revoke(t, many...)
		wantListed(t, n.fw, nil)
	}
}

// wantListed fails unless just these pinholes are open, with time left.
func wantListed(t *testing.T, fw firewall.Firewall, want []firewall.Pinhole) {
	t.Helper()
	got := list(t, fw)
	for _, p := range want {
		if left := got[p.Opening()]; left <= 0 || left > p.TTL {
			t.Fatalf("%v is listed with %v left", p, left)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d pinholes are listed, want %d", len(got), len(want))
	}
}

// wholeList lists right after a set has grown, while a kernel may still be
// moving its elements to a larger table.
func wholeList(t *testing.T, n *network) {
	var many []firewall.Pinhole
	for i := range 5000 {
		source := netip.AddrPortFrom(n.client.v6, uint16(i+1))
		many = append(many, exact(firewall.UDP, source, portA))
	}
	for range 15 {
		n.install(t, firewall.Rules{})
		n.open(t, many...)
		wantListed(t, n.fw, many)
		if err := n.fw.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

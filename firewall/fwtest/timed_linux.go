package fwtest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// keepEnds: the administrator's own connection lives by such a rule.
func keepEnds(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, n.host, portA)
	const ttl = 2 * time.Second // whole: some sets count in seconds
	rules := insideRules()
	for i, a := range n.client.addresses() {
		rules.Keep = append(rules.Keep, firewall.Keep{Source: netip.PrefixFrom(a, a.BitLen()),
			Interface: []string{"", testkit.Interface}[i], TTL: time.Hour})
	}
	standing := firewall.Keep{Source: netip.PrefixFrom(n.neighbour.v4, 32)}
	rules.Keep = append(rules.Keep, standing)
	n.install(t, rules)
	var flows []*flow
	for i, to := range n.host.addresses() {
		for _, p := range protocols() {
			flows = append(flows, n.startFlow(t, p, to, uint16(5000+i)),
				startFlow(t, p, way{from: n.client, server: behind,
					at:    netip.AddrPortFrom(to, portPublished),
					local: netip.AddrPortFrom(behind.in(to), portBehind)}))
		}
	}
	// Installing again sets the time that is left anew.
	rules.Keep[0].TTL, rules.Keep[1].TTL = ttl, ttl
	stalls := testkit.WatchStalls(t)
	before := time.Now()
	n.install(t, rules)
	after := time.Now()
	if err := n.fw.Close(); err != nil { // no daemon is left to help
		t.Fatal(err)
	}
	wantCutAt(t, flows, before.Add(ttl), after.Add(ttl), stalls)
	for _, to := range n.host.addresses() {
		wantSilence(t, n.client, 0, firewall.TCP, netip.AddrPortFrom(to, portA))
	}
	wantReached(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(n.host.v4, portA))

	// The rules of before leave nothing behind: other rules, other ends.
	n.fw = n.newFirewall(t)
	again := firewall.Rules{Keep: []firewall.Keep{standing,
		{Source: netip.PrefixFrom(n.client.v6, 128), TTL: time.Hour}}}
	n.install(t, again)
	wantReached(t, n.client, 0, firewall.TCP, netip.AddrPortFrom(n.host.v6, portA))
	wantSilence(t, n.client, 0, firewall.TCP, netip.AddrPortFrom(n.host.v4, portA))
	n.install(t, firewall.Rules{Keep: []firewall.Keep{standing}})
	wantSilence(t, n.client, 0, firewall.TCP, netip.AddrPortFrom(n.host.v6, portA))
	again.Keep[1].TTL = time.Microsecond
	n.install(t, again)
	testkit.Eventually(t, soon, "a microsecond is over", func() bool {
		return try(t, n.client, 0, firewall.TCP, netip.AddrPortFrom(n.host.v6, portA), shortly) == silent
	})
}

// trialEnds: whoever locked himself out has his machine back, with no daemon to
// help.
func trialEnds(t *testing.T, n *network) {
	behind := n.addBehind(t)
	serveEcho(t, n.host, portA)
	serveEcho(t, n.client, portA)
	serveEcho(t, behind, portBehind)
	before := n.startFlow(t, firewall.TCP, n.host.v4, 5000)
	const trial = 2 * time.Second
	n.install(t, firewall.Rules{Trial: time.Hour})
	before.wantCut(t)
	rules := insideRules()
	rules.Trial = trial
	began := time.Now()
	n.install(t, rules) // sets the time anew
	p := wide(firewall.UDP, n.client.v4, portB)
	n.open(t, p)
	if err := n.fw.Close(); err != nil {
		t.Fatal(err)
	}
	if try(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(n.host.v4, portA), shortly) != silent &&
		time.Since(began) < trial {
		t.Error("on trial the table lets strangers in")
	}
	testkit.Eventually(t, soon, "the trial is over", func() bool {
		return try(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(n.host.v4, portA), shortly) == reached
	})
	if took := time.Since(began); took < trial-50*time.Millisecond {
		t.Errorf("the trial of %v was over after %v", trial, took)
	}
	before.wantAlive(t)
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			wantReached(t, n.neighbour, 0, p, netip.AddrPortFrom(to, portA))
			wantReached(t, n.neighbour, 0, p, netip.AddrPortFrom(to, portPublished))
			wantReached(t, n.host, 0, p, netip.AddrPortFrom(n.client.in(to), portA))
		}
		if !ping(t, n.neighbour, to, soon) {
			t.Errorf("no answer to a ping of %v after the trial", to)
		}
		closed := netip.AddrPortFrom(to, portClosed)
		if got := try(t, n.neighbour, 0, firewall.TCP, closed, soon); got != refused {
			t.Errorf("closed port after the trial: %s, want refused", got)
		}
	}
	// Another one can be had, with the pinholes of before and without the flows.
	n.fw = n.newFirewall(t)
	n.install(t, firewall.Rules{Trial: time.Hour})
	before.wantCut(t)
	if got := list(t, n.fw); got[p.Opening()] <= 0 {
		t.Errorf("after the trial the pinholes are %v, want %v among them", got, p)
	}
	for _, to := range n.host.addresses() {
		wantSilence(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(to, portA))
	}
}

// trialConfirmed installs the same rules without an end while the trial runs.
// The dangerous moment is that of the change, so it is tried many times.
func trialConfirmed(t *testing.T, n *network) {
	servers := serveEcho(t, n.host, portB)
	rules := firewall.Rules{Trial: 3 * time.Second}
	n.install(t, rules)
	n.open(t, wide(firewall.UDP, n.client.v4, portA))
	at := netip.AddrPortFrom(n.host.v4, portB)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // a stranger that tries all the time
		defer close(stopped)
		sendUntil(t, n.neighbour, at, stop)
	}()
	var began time.Time
	n.counted(t, func() {
		for range 50 {
			began = time.Now()
			n.install(t, rules)
			n.install(t, rules)
			n.install(t, firewall.Rules{})
		}
	})
	testkit.Eventually(t, 2*soon, "the time of the last trial is long over", func() bool {
		return time.Since(began) > rules.Trial+2*shortly
	})
	close(stop)
	<-stopped
	if k := servers.from(n.neighbour); k > 0 {
		t.Errorf("%d of a stranger's datagrams came through", k)
	}
	for _, to := range n.host.addresses() {
		wantSilence(t, n.neighbour, 0, firewall.TCP, netip.AddrPortFrom(to, portB))
	}
}

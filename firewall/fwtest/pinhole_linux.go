package fwtest

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func oneSourceOnePort(t *testing.T, n *network) {
	servers := serveEcho(t, n.host, portA, portB)
	n.install(t, firewall.Rules{})
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			at, beside := netip.AddrPortFrom(to, portA), netip.AddrPortFrom(to, portB)
			pinhole := wide(p, n.client.in(to), portA)
			n.open(t, pinhole)
			wantReached(t, n.client, 0, p, at)
			wantSilence(t, n.client, 0, p, beside)
			wantSilence(t, n.client, 0, other(p), at)
			wantSilence(t, n.neighbour, 0, p, at)
			n.revoke(t, pinhole)
			wantSilence(t, n.client, 0, p, at)
		}
	}
	if k := servers.from(n.neighbour); k > 0 {
		t.Errorf("%d of the neighbour's datagrams came through, unanswered", k)
	}
	if k := servers.from(n.client); k != len(n.host.addresses()) {
		t.Errorf("%d of the client's datagrams came through, want one through each UDP pinhole", k)
	}
}

func exactSourcePort(t *testing.T, n *network) {
	serveEcho(t, n.host, portA)
	n.install(t, firewall.Rules{})
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			at := netip.AddrPortFrom(to, portA)
			pinhole := exact(p, netip.AddrPortFrom(n.client.in(to), 20000), portA)
			n.open(t, pinhole)
			wantReached(t, n.client, 20000, p, at)
			wantSilence(t, n.client, 20001, p, at)
			wantSilence(t, n.client, portA, p, at)
			wantSilence(t, n.neighbour, 20000, p, at)
			wantSilence(t, n.client, 20000, other(p), at)
			n.revoke(t, pinhole)
			wantSilence(t, n.client, 20000, p, at)
		}
	}
}

// startFlows starts a TCP and a UDP flow to each of the host's addresses, each
// in a wide pinhole for its own port.
func (n *network) startFlows(t *testing.T) []*flow {
	var flows []*flow
	for _, to := range n.host.addresses() {
		for _, p := range protocols() {
			n.flows++
			port := uint16(5000 + n.flows)
			entrance := wide(p, n.client.in(to), port)
			n.open(t, entrance)
			f := n.startFlow(t, p, to, port)
			n.apply(t, firewall.Change{
				Revoke: []firewall.Pinhole{entrance}, Open: []firewall.Pinhole{f.pinhole}})
			f.wantAlive(t)
			flows = append(flows, f)
		}
	}
	return flows
}

func deadline(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	const ttl = time.Second // whole: some sets count in seconds
	for _, kind := range []string{"exact", "wide"} {
		flows := n.startFlows(t)
		var change firewall.Change
		for _, f := range flows {
			p := f.pinhole
			change.Revoke = append(change.Revoke, p)
			if kind == "wide" {
				p.SourcePort = 0
			}
			p.TTL = ttl
			change.Open = append(change.Open, p)
		}
		stalls := testkit.WatchStalls(t)
		before := time.Now()
		n.apply(t, change)
		after := time.Now()
		if kind == "wide" { // the last round: no daemon is left to help
			if err := n.fw.Close(); err != nil {
				t.Fatal(err)
			}
		}
		wantCutAt(t, flows, before.Add(ttl), after.Add(ttl), stalls)
	}
}

func revoke(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	for _, f := range n.startFlows(t) {
		f.wantAlive(t)
		stalls := testkit.WatchStalls(t)
		n.revoke(t, f.pinhole)
		revoked := time.Now()
		late := f.wantCut(t).Sub(revoked)
		if late > stalls.Within(50*time.Millisecond) {
			t.Errorf("%s: went on for %v after the revocation", f.name, late)
		}
		t.Logf("%s: last byte %v after Apply returned", f.name, late)
		n.open(t, f.pinhole)
		if f.pinhole.Protocol == firewall.UDP { // TCP waits before it tries again
			f.wantAlive(t)
		}
	}
}

// counted sends numbered datagrams through a pinhole until stopped and counts
// those that arrive.
func (n *network) counted(t *testing.T, during func()) {
	t.Helper()
	var server *net.UDPConn
	var client net.Conn
	var err error
	at := netip.AddrPortFrom(n.host.v4, portA)
	n.host.Do(t, func() { server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	source := netip.AddrPortFrom(n.client.v4, 20000)
	n.client.Do(t, func() {
		client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(source), net.UDPAddrFromAddrPort(at))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var arrived, sent atomic.Int64
	gone, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for buffer := make([]byte, 16); ; arrived.Add(1) {
			if _, err := server.Read(buffer); err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(2 * time.Microsecond); ; <-tick.C {
			select {
			case <-stop:
				tick.Stop()
				return
			default:
			}
			if sent.Load()-arrived.Load() > 100 {
				continue // not so many that the socket itself would drop some
			}
			if _, err := client.Write([]byte("x")); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			sent.Add(1)
		}
	}()
	during()
	close(stop)
	<-stopped
	testkit.Eventually(t, soon, "all datagrams arrive", func() bool {
		return arrived.Load() == sent.Load()
	})
	t.Logf("%d datagrams, none lost", sent.Load())
	server.Close()
	<-gone
}

func replace(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	source := netip.AddrPortFrom(n.client.v4, 20000)
	a := []firewall.Pinhole{wide(firewall.UDP, source.Addr(), portA)}
	b := []firewall.Pinhole{exact(firewall.UDP, source, portA)}
	n.open(t, a...)
	n.counted(t, func() {
		for range 5000 {
			n.apply(t, firewall.Change{Revoke: a, Open: b})
			n.open(t, b...) // refreshed
			n.apply(t, firewall.Change{Revoke: b, Open: b})
			n.apply(t, firewall.Change{Revoke: b, Open: a})
		}
	})
	if got := list(t, n.fw); len(got) != 1 || got[a[0].Opening()] == 0 {
		t.Errorf("after the last replacement there is %v, want %v", got, a)
	}
}

func refresh(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	for _, s := range n.client.addresses() {
		for _, p := range []firewall.Pinhole{
			wide(firewall.UDP, s, portA), exact(firewall.TCP, netip.AddrPortFrom(s, 1), portA)} {
			for _, ttl := range []time.Duration{time.Hour, time.Minute, 24 * time.Hour} {
				p.TTL = ttl
				n.open(t, p)
				left := list(t, n.fw)[p.Opening()]
				if left > ttl || left < ttl-2*time.Second {
					t.Errorf("%v: opened for %v, %v are left", p, ttl, left)
				}
			}
			for _, ttl := range []time.Duration{0, -time.Second} {
				p.TTL = time.Hour
				n.open(t, p)
				p.TTL = ttl
				n.open(t, p)
				if left, there := list(t, n.fw)[p.Opening()]; there {
					t.Errorf("opened for %v: listed with %v left", ttl, left)
				}
			}
			// To a kernel, 0 ms would mean for ever.
			p.TTL = time.Microsecond
			n.open(t, p)
			testkit.Eventually(t, soon, "a microsecond is over", func() bool {
				return len(list(t, n.fw)) == 0
			})
			n.revoke(t, p) // no error
		}
	}
}

// turnAround: conntrack forgets a revoked UDP flow, then the server sends again.
// To conntrack that is a flow of the host's own, and the client's packets are
// its replies.
func turnAround(t *testing.T, n *network) {
	n.install(t, firewall.Rules{})
	for _, to := range n.host.addresses() {
		entrance := wide(firewall.UDP, n.client.in(to), portA)
		n.open(t, entrance)
		f := &flow{name: "udp to " + to.String()}
		at := netip.AddrPortFrom(to, portA)
		f.connectUDP(t, way{from: n.client, server: n.host, at: at, local: at})
		n.revoke(t, entrance)
		n.host.ForgetFlows(t)
		f.host.Write([]byte("pushed"))
		f.client.Write([]byte("answered"))
		for name, c := range map[string]net.Conn{"client": f.client, "host": f.host} {
			c.SetReadDeadline(time.Now().Add(shortly))
			if k, err := c.Read(make([]byte, 16)); err == nil {
				t.Errorf("%s: %d bytes reached the %s after the revocation", f.name, k, name)
			}
			c.Close()
		}
	}
}

// flowsBeforeInstall: a connection that conntrack has not seen begin must not pass
// for one of the host's own, unless a keep rule names it. The dangerous moment is
// the one in which tracking starts, so it is tried more than once.
func flowsBeforeInstall(t *testing.T, n *network) {
	const keptPort = 5000
	kept := n.startFlow(t, firewall.TCP, n.host.v4, keptPort)
	for round := range 4 {
		var cut []*flow
		for i := range 10 {
			to := n.host.addresses()[i%2]
			f := n.startFlow(t, firewall.TCP, to, uint16(portA+10*round+i))
			close(f.quiet) // the first packet that conntrack sees is the host's
			cut = append(cut, f)
		}
		n.install(t, firewall.Rules{Keep: []firewall.Keep{{
			Source: netip.PrefixFrom(n.client.v4, 32),
			Ports:  []firewall.Port{{Protocol: firewall.TCP, Number: keptPort}},
		}}})
		for _, f := range cut {
			f.wantCut(t)
		}
		kept.wantAlive(t)
		if err := n.fw.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const directPort = 7777

// openService is an echo server on all of the host's addresses.
func (l *lab) openService() {
	l.t.Helper()
	var listener net.Listener
	var err error
	l.host.Do(l.t, func() { listener, err = net.Listen("tcp", fmt.Sprintf(":%d", directPort)) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() { // ends with the listener
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends when the client goes away
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func (l *lab) direct(source string, ttl time.Duration, binding control.Binding) *device {
	d := l.device(source, ttl)
	d.session.Target = fmt.Sprintf(":%d", directPort)
	d.session.Access = control.Access{Mode: control.ModeDirect, Binding: binding}
	return d
}

// straight connects to the service without any tunnel.
func (l *lab) straight(from string, port uint16) (conn net.Conn, err error) {
	l.client.Do(l.t, func() {
		d := net.Dialer{
			Timeout:   time.Second,
			LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), port)),
		}
		conn, err = d.DialContext(l.t.Context(), "tcp", fmt.Sprintf("%s:%d", hostAddress, directPort))
	})
	if err == nil {
		l.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// knockFrom sends a host knock from an address and port.
func (d *device) knockFrom(from string, port uint16) {
	d.lab.t.Helper()
	var err error
	d.lab.client.Do(d.lab.t, func() {
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), port))
		var c *net.UDPConn
		if c, err = net.DialUDP("udp", local, &net.UDPAddr{IP: net.ParseIP(hostAddress), Port: 4042}); err != nil {
			return
		}
		defer c.Close()
		_, err = c.Write(d.knock())
	})
	if err != nil {
		d.lab.t.Fatal(err)
	}
}

func TestADirectServiceIsOpenToOneAddressUntilItIsRevoked(t *testing.T) {
	l := newLab(t)
	link := l.start()
	l.openService()
	if _, err := l.straight(clientOne, 0); err == nil {
		t.Fatal("the service is open before the order")
	}
	d := l.direct(clientOne, time.Hour, "")
	link.order(control.ToHost{Open: &d.session})
	conn, err := l.straight(clientOne, 0)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conn, "straight")
	if _, err := l.straight(clientTwo, 0); err == nil {
		t.Error("another address got in")
	}
	link.order(control.ToHost{Close: &control.CloseHost{Session: d.session.ID, Reason: "revoked"}})
	if _, err := io.WriteString(conn, "too late\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		t.Errorf("after the revocation came %q", line)
	}
}

func TestAKilledAgentsDirectServiceEndsAtItsDeadline(t *testing.T) {
	l := newLab(t)
	link := l.start()
	fw := l.firewall()
	l.openService()
	const ttl = 3 * time.Second
	stalls := testkit.WatchStalls(t)
	d := l.direct(clientOne, ttl, "")
	link.order(control.ToHost{Open: &d.session})
	begun := time.Now()
	conn, err := l.straight(clientOne, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.kill()
	echo(t, conn, "the agent is dead, and the session lives")
	testkit.Eventually(t, 2*ttl, "the pinholes are gone", func() bool { return len(l.pinholes(fw)) == 0 })
	if took := time.Since(begun); took < ttl-time.Second || took > stalls.Within(ttl+time.Second) {
		t.Errorf("the pinhole of %s lived %s", ttl, took)
	}
	_, _ = io.WriteString(conn, "too late\n")
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		t.Errorf("after the deadline came %q", line)
	}
}

func TestAHostKnockMovesADirectServiceToItsSource(t *testing.T) {
	l := newLab(t)
	link := l.start()
	l.openService()
	d := l.direct(clientTwo, time.Hour, "")
	link.order(control.ToHost{Open: &d.session})
	d.knockFrom(clientOne, 0)
	testkit.Eventually(t, 5*time.Second, "the knock's source gets in", func() bool {
		_, err := l.straight(clientOne, 0)
		return err == nil
	})
	if _, err := l.straight(clientTwo, 0); err == nil {
		t.Error("the order's address is still let in")
	}
}

func TestAnExactDirectServiceIsForThePortOfTheHostKnock(t *testing.T) {
	l := newLab(t)
	link := l.start()
	l.openService()
	d := l.direct(clientOne, time.Hour, control.BindExact)
	link.order(control.ToHost{Open: &d.session})
	if _, err := l.straight(clientOne, 0); err == nil {
		t.Fatal("open before the host knock")
	}
	const port = 34567
	d.knockFrom(clientOne, port)
	fw := l.firewall()
	// A connection that is tried too early may end when its second SYN gets in, and then
	// its port is not to be had again for a while.
	testkit.Eventually(t, 5*time.Second, "the knock's port is let in", func() bool {
		return slices.ContainsFunc(l.pinholes(fw), func(p firewall.Pinhole) bool {
			return p.Protocol == firewall.TCP && p.SourcePort == port
		})
	})
	if _, err := l.straight(clientOne, port); err != nil {
		t.Errorf("the knock's port: %v", err)
	}
	if _, err := l.straight(clientOne, port+1); err == nil {
		t.Error("another port got in")
	}
}

func TestADirectSessionHasNoTunnel(t *testing.T) {
	l := newLab(t)
	link := l.start()
	d := l.direct(clientOne, time.Hour, "")
	link.order(control.ToHost{Open: &d.session})
	if _, err := d.dial(d.config()); !errors.Is(err, tunnel.ErrNoAnswer) {
		t.Errorf("its client was answered by QUIC: %v", err)
	}
}

func TestDirectSessionsOutliveTheAgent(t *testing.T) {
	l := newLab(t)
	link := l.start()
	l.openService()
	d := l.direct(clientOne, time.Hour, "")
	link.order(control.ToHost{Open: &d.session})
	conn, err := l.straight(clientOne, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.kill()
	echo(t, conn, "between two agents")
	l.controller.mu.Lock()
	l.controller.list = []control.Session{d.session}
	l.controller.mu.Unlock()
	l.start()
	echo(t, conn, "with the second")
}

func TestAWideTunnelIsForAllPortsOfAnAddress(t *testing.T) {
	now := time.Hour
	o := order("192.0.2.1", time.Hour)
	o.Binding = control.BindAddress
	tt, err := newTerms(o, now)
	if err != nil {
		t.Fatal(err)
	}
	at := firewall.Pinhole{Protocol: firewall.UDP, Source: netip.MustParseAddr("192.0.2.1"), Port: testPort}
	if got := tt.claims(netip.AddrPort{}, testPort); len(got) != 1 || got[0].opening != at || got[0].until != tt.until {
		t.Errorf("before the host knock: %+v", got)
	}
	at.Source = netip.MustParseAddr("192.0.2.9")
	tt.wide = 0
	if got := tt.claims(netip.MustParseAddrPort("192.0.2.9:5"), testPort); len(got) != 1 || got[0].opening != at {
		t.Errorf("after one from elsewhere: %+v", got)
	}
}

func TestTheHostDecidesWhereItsAgentConnectsTo(t *testing.T) {
	r := newReach([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8")})
	r.own = func() ([]net.Addr, error) {
		_, lan, err := net.ParseCIDR("192.0.2.2/24")
		lan.IP = net.ParseIP("192.0.2.2")
		return []net.Addr{lan}, err
	}
	for target, want := range map[string]map[control.Mode]bool{
		"127.0.0.1:22":       {control.ModeTunnel: true, control.ModeGateway: false},
		"[::1]:22":           {control.ModeTunnel: true, control.ModeGateway: false},
		"[::ffff:7f00:1]:22": {control.ModeTunnel: true, control.ModeGateway: false},
		"192.0.2.2:22":       {control.ModeTunnel: true, control.ModeGateway: false},
		"192.0.2.3:22":       {control.ModeTunnel: false, control.ModeGateway: false},
		"10.1.2.3:22":        {control.ModeTunnel: false, control.ModeGateway: true},
		"[::ffff:a01:203]:1": {control.ModeTunnel: false, control.ModeGateway: true},
		"169.254.169.254:80": {control.ModeTunnel: false, control.ModeGateway: false},
	} {
		for mode, ok := range want {
			if err := r.check(mode, target); (err == nil) != ok || err != nil && !errors.Is(err, errReach) {
				t.Errorf("%s as %s: %v, want allowed: %v", target, mode, err, ok)
			}
		}
	}
	// A name is judged by what it resolves to.
	_, err := r.dial(context.Background(), "tcp", control.ModeGateway, "localhost:1")
	if !errors.Is(err, errReach) || strings.Contains(fmt.Sprint(err), "refused") {
		t.Errorf("localhost as a gateway's target: %v", err)
	}
}

func TestAUDPServiceGoesThroughTheTunnel(t *testing.T) {
	l := newLab(t)
	link := l.start()
	var service net.PacketConn
	var err error
	l.host.Do(t, func() { service, err = net.ListenPacket("udp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() { // ends with the socket
		b := make([]byte, 2048)
		for {
			n, from, err := service.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = service.WriteTo(b[:n], from)
		}
	}()
	d := l.device(clientOne, time.Hour)
	d.session.Target, d.session.Access = service.LocalAddr().String(), control.Access{Transport: control.TransportUDP}
	link.order(control.ToHost{Open: &d.session})
	conn, err := d.dial(d.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.OpenStream(t.Context()); err == nil {
		t.Error("a TCP connection to a UDP service was opened")
	}
	flow, err := conn.OpenFlow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	testkit.Eventually(t, 10*time.Second, "a datagram comes back", func() bool {
		if _, err := io.WriteString(flow, "ping"); err != nil {
			t.Fatal(err)
		}
		_ = flow.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		b := make([]byte, 16)
		n, err := flow.Read(b)
		return err == nil && string(b[:n]) == "ping"
	})
	link.order(control.ToHost{Close: &control.CloseHost{Session: d.session.ID, Reason: "revoked"}})
	_ = flow.SetReadDeadline(time.Now().Add(5 * time.Second))
	for err = nil; err == nil; { // echoes of the pings above
		_, err = flow.Read(make([]byte, 16))
	}
	if !errors.Is(err, tunnel.ErrRevoked) {
		t.Errorf("after the revocation: %v", err)
	}
}

// TestADirectSessionIsNeverAdmittedToTheTunnel: not when its host knock comes, and
// not by the next agent.
func TestADirectSessionIsNeverAdmittedToTheTunnel(t *testing.T) {
	gate := &memoryGate{admitted: make(map[netip.AddrPort]key.ID)}
	b := newSessions(&sessions{
		fw: newMemoryKernel(bootClock), gate: gate, hints: spa.NewTable[key.HostKnock](time.Now()), now: bootClock,
		port: testPort, log: slog.New(slog.DiscardHandler), onChange: func() {}, onEnd: func(control.Ended) {},
	})
	source := netip.MustParseAddrPort("192.0.2.1:5000")
	for mode, admitted := range map[control.Mode]bool{control.ModeDirect: false, control.ModeTunnel: true} {
		o := order("192.0.2.1", time.Hour)
		o.Mode, o.Target = mode, "127.0.0.1:22"
		terms, err := newTerms(o, bootClock())
		if err != nil {
			t.Fatal(err)
		}
		b.live[o.ID] = newSession(terms)
		if !b.bind(o.ID, source) {
			t.Fatal("the host knock was not taken")
		}
		if _, in := gate.Session(source); in != admitted {
			t.Errorf("%s, at the host knock: admitted %v, want %v", mode, in, admitted)
		}
		left := b.live[o.ID].record()
		gate.Revoke(source)
		delete(b.live, o.ID)
		b.adopt([]record{left}, nil)
		if _, in := gate.Session(source); in != admitted {
			t.Errorf("%s, adopted: admitted %v, want %v", mode, in, admitted)
		}
		gate.Revoke(source)
		delete(b.live, o.ID)
	}
}

func TestAnOrderDoesNotChangeHowALiveSessionIsReached(t *testing.T) {
	o := order("192.0.2.1", time.Hour)
	before, err := newTerms(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.Mode = control.ModeDirect
	after, err := newTerms(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newSession(before).renew(after); !errors.Is(err, errMismatch) {
		t.Errorf("got %v, want errMismatch", err)
	}
}

func TestAServiceSpeaksItsOwnProtocolOnly(t *testing.T) {
	b := newSessions(&sessions{now: bootClock})
	o := order("192.0.2.1", time.Hour)
	o.Target = "127.0.0.1:9"
	who := control.Identity{Role: control.RoleClient, ID: o.Device}
	for transport, other := range map[control.Transport]control.Transport{
		control.TransportTCP: control.TransportUDP, control.TransportUDP: control.TransportTCP,
	} {
		o.Transport = transport
		terms, err := newTerms(o, bootClock())
		if err != nil {
			t.Fatal(err)
		}
		b.live[o.ID] = newSession(terms)
		if _, _, err := b.dial(t.Context(), o.ID, who, other); !errors.Is(err, errTransport) {
			t.Errorf("%s for a %s service: %v", other, transport, err)
		}
	}
}

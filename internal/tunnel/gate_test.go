package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"

	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// firstFlight returns the datagrams that a QUIC client begins with.
func firstFlight(t testing.TB) [][]byte {
	t.Helper()
	sink, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		config := tlsConfig(time.Now)
		config.InsecureSkipVerify = true
		quic.DialAddr(ctx, sink.LocalAddr().String(), config, quicConfig(time.Minute, 0, 0))
	}()
	var flight [][]byte
	b := make([]byte, 1<<16)
	for len(flight) < 2 { // the hybrid key share does not fit into one
		n, err := sink.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		flight = append(flight, bytes.Clone(b[:n]))
	}
	cancel()
	<-done
	return flight
}

// TestAnyAddressIsBothFamiliesOrTheOneThereIs: a kernel without IPv6 opens no socket of
// that family, which the address [::] would ask package net for.
func TestAnyAddressIsBothFamiliesOrTheOneThereIs(t *testing.T) {
	for address, want := range map[string]struct{ network, ip string }{
		"[::]:4042":          {"udp", "<nil>"},
		"0.0.0.0:4042":       {"udp4", "0.0.0.0"},
		"192.0.2.1:4042":     {"udp4", "192.0.2.1"},
		"[2001:db8::1]:4042": {"udp", "2001:db8::1"},
	} {
		network, local := dialect(netip.MustParseAddrPort(address))
		if network != want.network || local.IP.String() != want.ip || local.Port != 4042 {
			t.Errorf("%s: %s %v, want %s %s", address, network, local, want.network, want.ip)
		}
	}
	both, err := Listen(netip.MustParseAddrPort("[::]:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	if !both.Addr().Addr().IsUnspecified() {
		t.Errorf("bound to %s", both.Addr())
	}
}

// forgeries are what a stranger may try.
func forgeries(t testing.TB) map[string][][]byte {
	initial := firstFlight(t)
	unknown := bytes.Clone(initial[0])
	binary.BigEndian.PutUint32(unknown[1:], 0x1a2a3a4a)
	short := make([]byte, 600)
	rand.Read(short)
	short[0] = 0x40 | short[0]&0x3f
	handshake := bytes.Clone(initial[0])
	handshake[0] = handshake[0]&0xcf | 0x20
	negotiation := bytes.Clone(initial[0])
	clear(negotiation[1:5])
	like := make([]byte, knockSize)
	rand.Read(like)
	large := make([]byte, 60_000)
	rand.Read(large)
	return map[string][][]byte{
		"initial":             initial,
		"unknown version":     {unknown},
		"version negotiation": {negotiation},
		"short header":        {short},
		"handshake":           {handshake},
		"not a knock":         {like},
		"one byte":            {{0x40}, {0xc0}, {0}},
		"large":               {large},
	}
}

func TestWithoutKnockNothingIsAnswered(t *testing.T) {
	testkit.NoLeak(t)
	forged := forgeries(t)
	for _, address := range []string{loopback4, loopback6, "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			h := newHouse(t, address)
			echo(t, open(t, h.dial(h.grant())), "a neighbour is in")
			before := h.gate.Counters()
			stranger := newSocket(t, h.address())
			sent := uint64(0)
			for what, datagrams := range forged {
				for _, d := range datagrams {
					if _, err := stranger.Write(d); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					sent++
				}
			}
			eventually(t, "all of them are dropped", func() bool {
				return h.gate.Counters().Strangers-before.Strangers == sent
			})
			silent(t, stranger, 100*time.Millisecond)
			if got := h.gate.Counters().Unsent; got != 0 {
				t.Errorf("QUIC tried to answer strangers %d times", got)
			}
		})
	}
}

// What the test above sends does get answers when nobody filters.
func TestForgeriesAreAnsweredByPlainQUIC(t *testing.T) {
	h := openHouse(t, loopback4)
	h.gate.Close()
	listener, err := quic.ListenAddr(loopback4, &tls.Config{
		Certificates: []tls.Certificate{h.cert}, NextProtos: []string{ALPN},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	forged := forgeries(t)
	for _, what := range []string{"unknown version", "initial"} {
		c := newSocket(t, netip.MustParseAddrPort(listener.Addr().String()))
		for _, d := range forged[what] {
			if _, err := c.Write(d); err != nil {
				t.Fatal(err)
			}
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 2000)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKnockAndFirstFlightInOneBurst(t *testing.T) {
	for _, address := range []string{loopback4, loopback6} {
		t.Run(address, func(t *testing.T) {
			h := openHouse(t, address)
			c := newSocket(t, h.address())
			for _, d := range append([][]byte{h.seal(h.grant())}, firstFlight(t)...) {
				if _, err := c.Write(d); err != nil {
					t.Fatal(err)
				}
			}
			h.serve() // reads all of it at once
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 2000)); err != nil {
				t.Fatalf("the first flight right behind a knock: %v", err)
			}
			if got := h.gate.Counters(); got.Strangers != 0 || got.Knocks != 1 {
				t.Errorf("got %+v, want one knock and nothing dropped", got)
			}
		})
	}
}

func TestReplayedKnockLetsNobodyIn(t *testing.T) {
	h := newHouse(t, loopback4)
	knock := h.seal(h.grant())
	owner, thief := newSocket(t, h.address()), newSocket(t, h.address())
	owner.Write(knock)
	eventually(t, "the knock is taken", func() bool { return h.gate.Counters().Knocks == 1 })
	for _, d := range append([][]byte{knock}, firstFlight(t)...) {
		thief.Write(d)
	}
	eventually(t, "all of it is dropped", func() bool { return h.gate.Counters().Strangers == 3 })
	silent(t, thief, 100*time.Millisecond)
}

// testGate is a gate without QUIC.
func testGate(t testing.TB, address string, knocks KnockFunc) *Gate {
	t.Helper()
	g, err := Listen(netip.MustParseAddrPort(address), knocks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 1452)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

func sourceOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func TestReadBatchNeverReturnsNone(t *testing.T) {
	g := testGate(t, loopback4, nil)
	stranger, friend := newSocket(t, g.Addr()), newSocket(t, g.Addr())
	for range 50 {
		stranger.Write([]byte("stranger"))
	}
	g.Admit(sourceOf(friend), key.NewID())
	friend.Write([]byte("friend"))
	friend.Write(nil)
	ms := messages(8)
	n, err := g.ReadBatch(ms, 0)
	if n != 1 || err != nil || string(ms[0].Buffers[0][:ms[0].N]) != "friend" {
		t.Fatalf("got %d messages, %v", n, err)
	}
	if got := ms[0].Addr.String(); got != friend.LocalAddr().String() {
		t.Errorf("source: got %s, want %s", got, friend.LocalAddr())
	}
	g.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err = g.ReadBatch(ms, 0); n != 0 || err == nil {
		t.Errorf("of nothing but an empty datagram: got %d messages, %v", n, err)
	}
	g.Close()
	if n, err = g.ReadBatch(ms, 0); n != 0 || err == nil {
		t.Errorf("closed: got %d messages, %v", n, err)
	}
}

func TestDatagramOfAKnocksLengthReachesQUICWhenItIsNone(t *testing.T) {
	asked := 0
	g := testGate(t, loopback4, func([]byte, netip.AddrPort, netip.AddrPort) bool {
		asked++
		return false
	})
	c := newSocket(t, g.Addr())
	g.Admit(sourceOf(c), key.NewID())
	c.Write(make([]byte, knockSize))
	if n, err := g.ReadBatch(messages(8), 0); n != 1 || err != nil || asked != 1 {
		t.Fatalf("got %d messages, %v; asked %d times", n, err, asked)
	}
}

func TestSourcesHaveOneForm(t *testing.T) {
	g := testGate(t, loopback4, nil)
	four := netip.MustParseAddrPort("192.0.2.1:1000")
	mapped := netip.MustParseAddrPort("[::ffff:192.0.2.1]:1000")
	id := key.NewID()
	g.Admit(mapped, id)
	if got, ok := g.Session(four); !ok || got != id {
		t.Errorf("got %v, %v", got, ok)
	}
	g.Revoke(four)
	if _, ok := g.Session(mapped); ok {
		t.Error("still admitted")
	}
	if _, ok := g.Session(netip.MustParseAddrPort("192.0.2.1:1001")); ok {
		t.Error("another port is admitted")
	}
}

func TestRevokedSourceIsToldALastWordAndNothingElse(t *testing.T) {
	g := testGate(t, loopback4, nil)
	c := newSocket(t, g.Addr())
	g.Admit(sourceOf(c), key.NewID())
	c.Write([]byte("in"))
	c.Write([]byte("too late"))
	ms := messages(1)
	if n, err := g.ReadBatch(ms, 0); n != 1 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	g.Revoke(sourceOf(c))
	g.Revoke(sourceOf(c))
	g.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := g.ReadBatch(ms, 0); n != 0 || err == nil {
		t.Errorf("revoked: got %d datagrams, %v", n, err)
	}
	for range 10 {
		g.WriteTo(make([]byte, farewellSize+1), c.LocalAddr())
		g.WriteTo([]byte("bye"), c.LocalAddr())
	}
	for range farewellCount {
		b := make([]byte, 2000)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "bye" {
			t.Fatalf("got %d bytes, %v", n, err)
		}
	}
	silent(t, c, 20*time.Millisecond)
	if got, want := g.Counters().Unsent, uint64(20-farewellCount); got != want {
		t.Errorf("held back: got %d, want %d", got, want)
	}
}

func TestRevokedSourcesAreForgotten(t *testing.T) {
	g := testGate(t, loopback4, nil)
	for i := range 3 * maxFarewells {
		a := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i+1))
		g.Admit(a, key.NewID())
		g.Revoke(a)
	}
	if got := len(g.peers); got > maxFarewells {
		t.Errorf("%d sources are kept", got)
	}
	back := netip.MustParseAddrPort("192.0.2.2:1")
	g.Admit(back, key.NewID())
	g.Revoke(back)
	g.Admit(back, key.NewID())
	g.mu.Lock()
	g.forgetLocked(time.Now().Add(2 * farewellTime))
	g.mu.Unlock()
	if _, ok := g.Session(back); !ok || len(g.peers) != 1 {
		t.Errorf("a source that was let in again is gone, or others stay: %d", len(g.peers))
	}
}

func TestNothingIsSentToStrangers(t *testing.T) {
	g := testGate(t, loopback4, nil)
	c := newSocket(t, g.Addr())
	if n, err := g.WriteTo([]byte("hello"), c.LocalAddr()); n != 5 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	silent(t, c, 20*time.Millisecond)
}

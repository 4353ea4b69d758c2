package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// relay is a NAT: it carries one client's datagrams to a server from a socket of
// its own, which it can change.
type relay struct {
	inside  *net.UDPConn
	server  netip.AddrPort
	running sync.WaitGroup

	mu      sync.Mutex
	client  netip.AddrPort
	outside *net.UDPConn
}

func newRelay(t testing.TB, server netip.AddrPort) *relay {
	t.Helper()
	inside, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{inside: inside, server: server}
	r.rebind(t)
	r.running.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := inside.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			r.outside.WriteToUDPAddrPort(b[:n], server)
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		inside.Close()
		r.outside.Close()
		r.running.Wait()
	})
	return r
}

func (r *relay) address() netip.AddrPort { return r.inside.LocalAddr().(*net.UDPAddr).AddrPort() }

// rebind changes the port that the server sees. The old one is gone.
func (r *relay) rebind(t testing.TB) {
	t.Helper()
	outside, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outside != nil {
		r.outside.Close()
	}
	r.outside = outside
	r.running.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, err := outside.Read(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			client := r.client
			r.mu.Unlock()
			r.inside.WriteToUDPAddrPort(b[:n], client)
		}
	})
}

func TestTunnelSurvivesARebindingNAT(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	s := h.grant()
	c := h.config(s)
	c.Addresses = []netip.AddrPort{nat.address()}
	stream := open(t, dial(t, c))
	for range 3 {
		echo(t, stream, "before")
		before := h.gate.Counters()
		nat.rebind(t)
		begin := time.Now()
		echo(t, stream, "after")
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("took %v", took)
		}
		after := h.gate.Counters()
		if after.Strangers == before.Strangers {
			t.Error("the new address was let in before it had knocked")
		}
		if after.Knocks == before.Knocks {
			t.Error("nobody knocked")
		}
	}
}

func TestClientThatKnowsOfAChangeKnocksAtOnce(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	conn := dial(t, c)
	stream := open(t, conn)
	echo(t, stream, "before")
	nat.rebind(t)
	begin := time.Now()
	conn.Knock()
	echo(t, stream, "after")
	if took := time.Since(begin); took > patience {
		t.Errorf("took %v", took)
	}
}

// Knocks tell an observer that a session is alive; a healthy path needs none.
func TestHealthyPathIsNotKnockedAt(t *testing.T) {
	h := newHouse(t, loopback4)
	stream := open(t, h.dial(h.grant()))
	for range 3 {
		echo(t, stream, "tick")
		stream.SetReadDeadline(time.Now().Add(patience + quiet))
		if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatal("got something")
		}
	}
	if got := h.gate.Counters().Knocks; got != 1 {
		t.Errorf("%d knocks", got)
	}
}

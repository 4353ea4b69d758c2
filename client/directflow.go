package client

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/lossy"
)

const (
	// flowPatience is how long a datagram to a direct service may be without an answer
	// until the host is knocked at once more. It doubles up to flowPatienceMax.
	flowPatience    = 500 * time.Millisecond
	flowPatienceMax = 30 * time.Second
)

// directFlow is a flow to a service's own port, from the socket that knocks. Before the
// first answer the service's addresses take turns, twice; a service that never answers
// gets the rest at the first one.
type directFlow struct {
	*net.UDPConn
	addresses []netip.AddrPort
	knock     func(at netip.AddrPort)

	mu       sync.Mutex // guards what follows
	turn     int
	answered bool
	since    time.Time // what was sent then is the first that has no answer; zero: nothing
	patience time.Duration
}

// dialDirectPacket makes a flow to the service itself. With binding exact there is one
// at a time, the latest.
func (a *Access) dialDirectPacket() (net.Conn, error) {
	g := a.Granted()
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a.Service, err)
	}
	f := &directFlow{
		UDPConn: socket, addresses: g.addresses(), patience: flowPatience,
		knock: func(at netip.AddrPort) { a.client.hostKnock(a.Granted(), socket, at) },
	}
	c := &packetConn{Conn: f, usage: newUsage()}
	c.release = func() { a.flows.remove(c); a.use(-1) }
	limit := maxFlows
	if g.exact() {
		limit = 1
	}
	a.use(1)
	a.flows.reserve(c, limit)
	a.flows.opened(c)
	f.knock(f.addresses[0])
	return c, nil
}

// to returns where the next datagram goes, and knocks first if the ones before it have
// had no answer: a knock gets lost like any datagram, and this machine may have moved.
func (f *directFlow) to() netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	again := !f.since.IsZero() && now.Sub(f.since) >= f.patience
	if again {
		f.patience = min(2*f.patience, flowPatienceMax)
		if !f.answered {
			f.turn++
		}
	}
	if f.since.IsZero() || again {
		f.since = now
	}
	at := f.addresses[f.turn%len(f.addresses)]
	if !f.answered && f.turn >= 2*len(f.addresses) {
		at = f.addresses[0]
	}
	if again {
		f.knock(at)
	}
	return at
}

// heard notes an answer of at's.
func (f *directFlow) heard(at int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered, f.turn, f.since, f.patience = true, at, time.Time{}, flowPatience
}

// Write implements [net.Conn]. What a network that is in the way has to say about a
// datagram is that it was lost.
func (f *directFlow) Write(b []byte) (int, error) {
	if _, err := f.WriteToUDPAddrPort(b, f.to()); err != nil && !lossy.Is(err) {
		return 0, err
	}
	return len(b), nil
}

// Read implements [net.Conn].
func (f *directFlow) Read(b []byte) (int, error) {
	for {
		n, from, err := f.ReadFromUDPAddrPort(b)
		if err != nil && lossy.Is(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
		if at := slices.Index(f.addresses, from); at >= 0 {
			f.heard(at)
			return n, nil
		}
	}
}

// RemoteAddr implements [net.Conn].
func (f *directFlow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(f.addresses[0]) }

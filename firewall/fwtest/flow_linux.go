package fwtest

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// flow is a live transfer from a client to a server on the host, or behind it,
// that runs in both directions, each end sending by itself without waiting for
// the other.
type flow struct {
	name             string
	pinhole          firewall.Pinhole // exact
	toHost, toClient meter
	client, host     net.Conn
	quiet            chan struct{} // closed when the client shall send no more
}

// meter notes what arrives at one end.
type meter struct {
	bytes atomic.Int64
	last  atomic.Int64 // when, in Unix nanoseconds
}

func (m *meter) lastTime() time.Time { return time.Unix(0, m.last.Load()) }

// period is the pause between two messages of a flow, each of chunk bytes.
const (
	period = time.Millisecond
	chunk  = 1000
)

// way is how a flow goes: who begins it, what address it asks for, and where the
// server listens, which is elsewhere when DNAT sends the flow on.
type way struct {
	from, server station
	at, local    netip.AddrPort
}

// startFlow connects the client to a port of the host that it may already
// reach, and starts the transfer. It ends with the test.
func (n *network) startFlow(t testing.TB, p firewall.Protocol, to netip.Addr, port uint16) *flow {
	t.Helper()
	at := netip.AddrPortFrom(to, port)
	return startFlow(t, p, way{from: n.client, server: n.host, at: at, local: at})
}

func startFlow(t testing.TB, p firewall.Protocol, w way) *flow {
	t.Helper()
	f := &flow{name: p.String() + " to " + w.at.String(), quiet: make(chan struct{})}
	if p == firewall.TCP {
		f.connectTCP(t, w)
	} else {
		f.connectUDP(t, w)
	}
	source := netip.MustParseAddrPort(f.client.LocalAddr().String())
	f.pinhole = exact(p, source, w.at.Port())
	var pumps sync.WaitGroup
	stop := make(chan struct{})
	pumps.Go(func() { pump(f.client, stop, f.quiet) })
	pumps.Go(func() { pump(f.host, stop, nil) })
	pumps.Go(func() { f.toHost.count(f.host) })
	pumps.Go(func() { f.toClient.count(f.client) })
	t.Cleanup(func() {
		close(stop)
		f.client.Close()
		f.host.Close()
		pumps.Wait()
	})
	f.wantAlive(t)
	return f
}

func (f *flow) connectTCP(t testing.TB, w way) {
	t.Helper()
	var l *net.TCPListener
	var err error
	w.server.Do(t, func() { l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(w.local)) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.from.Do(t, func() { f.client, err = net.DialTimeout("tcp", w.at.String(), soon) })
	if err != nil {
		t.Fatal(err)
	}
	l.SetDeadline(time.Now().Add(soon))
	if f.host, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	f.client.(*net.TCPConn).SetLinger(0)
	f.host.(*net.TCPConn).SetLinger(0)
}

// connectUDP lets the server's end learn the client's address from a first
// message: were the server the one that begins, the flow would be its own.
func (f *flow) connectUDP(t testing.TB, w way) {
	t.Helper()
	var first *net.UDPConn
	var err error
	local := net.UDPAddrFromAddrPort(w.local)
	w.server.Do(t, func() { first, err = net.ListenUDP("udp", local) })
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	w.from.Do(t, func() { f.client, err = net.Dial("udp", w.at.String()) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	first.SetReadDeadline(time.Now().Add(soon))
	_, peer, err := first.ReadFromUDPAddrPort(make([]byte, 16))
	if err != nil {
		t.Fatalf("%s: the first message did not arrive: %v", f.name, err)
	}
	first.Close()
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	w.server.Do(t, func() { f.host, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(peer)) })
	if err != nil {
		t.Fatal(err)
	}
}

func pump(c net.Conn, stop, quiet <-chan struct{}) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	message := make([]byte, chunk)
	for {
		select {
		case <-stop:
			return
		case <-quiet:
			return
		case <-tick.C:
			// A full window of a TCP flow that was cut must not hold the pump.
			c.SetWriteDeadline(time.Now().Add(soon))
			c.Write(message)
		}
	}
}

func (m *meter) count(c net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			m.last.Store(time.Now().UnixNano())
			m.bytes.Add(int64(n))
		}
		if err != nil {
			return
		}
	}
}

// wantAlive waits until both directions have moved on.
func (f *flow) wantAlive(t testing.TB) {
	t.Helper()
	host, client := f.toHost.bytes.Load(), f.toClient.bytes.Load()
	testkit.Eventually(t, soon, f.name+" transfers in both directions", func() bool {
		return f.toHost.bytes.Load() >= host+10*chunk && f.toClient.bytes.Load() >= client+10*chunk
	})
}

// wantCut waits until nothing has arrived for a while at either end and returns
// when the last bytes did. It counts looks as well as time: a machine that stood
// still has cut nothing.
func (f *flow) wantCut(t testing.TB) (last time.Time) {
	t.Helper()
	looks := 0
	testkit.Eventually(t, 2*soon, f.name+" is cut in both directions", func() bool {
		now := f.toHost.lastTime()
		if c := f.toClient.lastTime(); c.After(now) {
			now = c
		}
		if looks++; now != last {
			last, looks = now, 0
		}
		return looks >= quietLooks && time.Since(last) > 2*shortly
	})
	return last
}

// quietLooks in a row at a flow, some milliseconds apart each, have to find nothing new.
const quietLooks = 100

package fwtest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

const (
	soon    = 5 * time.Second        // for what must happen
	shortly = 150 * time.Millisecond // for what must not
)

// echoes notes from whom echo servers heard by UDP: also a packet that nobody
// answers must not come through.
type echoes struct {
	mu    sync.Mutex
	heard map[netip.Addr]int
}

func (e *echoes) from(s station) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[s.v4] + e.heard[s.v6]
}

// serveEcho runs echo servers for TCP and UDP on the ports of a station, on
// both families, until the end of the test.
func serveEcho(t testing.TB, s station, ports ...uint16) *echoes {
	t.Helper()
	var all sync.WaitGroup
	e := &echoes{heard: make(map[netip.Addr]int)}
	var open []io.Closer
	for _, port := range ports {
		var l net.Listener
		var p *net.UDPConn
		s.Do(t, func() {
			var err error
			if l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: int(port)}); err != nil {
				t.Fatal(err)
			}
			if p, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)}); err != nil {
				t.Fatal(err)
			}
		})
		open = append(open, l, p)
		all.Go(func() { echoTCP(&all, l) })
		all.Go(func() { e.serveUDP(p) })
	}
	t.Cleanup(func() {
		for _, c := range open {
			c.Close()
		}
		all.Wait()
	})
	return e
}

func echoTCP(all *sync.WaitGroup, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			// One that is cut off says no farewell.
			c.SetDeadline(time.Now().Add(2 * soon))
			buffer := make([]byte, 512)
			if n, err := c.Read(buffer); err == nil {
				c.Write(buffer[:n])
			}
		})
	}
}

func (e *echoes) serveUDP(p *net.UDPConn) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := p.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			e.mu.Lock()
			e.heard[from.Addr().Unmap()]++
			e.mu.Unlock()
			p.WriteToUDPAddrPort(buffer[:n], from) // a dropped answer is what is tested
		}
	}
}

// reach is how an attempt to reach a server ended.
type reach string

const (
	reached reach = "reached"
	silent  reach = "silence"
	refused reach = "refused"
)

// try sends one message from a station to an echo server and waits for the
// answer. Source port 0 is any.
func try(t testing.TB, from station, sourcePort uint16, p firewall.Protocol,
	to netip.AddrPort, wait time.Duration) reach {
	t.Helper()
	source := netip.AddrPortFrom(from.in(to.Addr()), sourcePort)
	dialer := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(source)}
	if p == firewall.UDP {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(source)
	}
	var c net.Conn
	var err error
	from.Do(t, func() { c, err = dialer.Dial(p.String(), to.String()) })
	if err != nil {
		return outcome(t, err)
	}
	defer c.Close()
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0) // so that the same source port can be used again
	}
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("ping")); err != nil {
		return outcome(t, err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		return outcome(t, err)
	}
	return reached
}

func outcome(t testing.TB, err error) reach {
	t.Helper()
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return silent
	}
	t.Fatalf("unexpected end of an attempt: %v", err)
	return ""
}

func wantReached(t testing.TB, from station, sourcePort uint16, p firewall.Protocol,
	to netip.AddrPort) {
	t.Helper()
	if got := try(t, from, sourcePort, p, to, soon); got != reached {
		t.Errorf("%s from %v port %d to %v: %s, want it reached",
			p, from.in(to.Addr()), sourcePort, to, got)
	}
}

func wantSilence(t testing.TB, from station, sourcePort uint16, p firewall.Protocol,
	to netip.AddrPort) {
	t.Helper()
	if got := try(t, from, sourcePort, p, to, shortly); got != silent {
		t.Errorf("%s from %v port %d to %v: %s, want silence",
			p, from.in(to.Addr()), sourcePort, to, got)
	}
}

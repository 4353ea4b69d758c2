package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// newPacketService runs serve with a UDP socket, whose address it returns.
func newPacketService(t testing.TB, serve func(*net.UDPConn)) string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { serve(c) })
	t.Cleanup(func() {
		c.Close()
		running.Wait()
	})
	return c.LocalAddr().String()
}

func newPacketEcho(t testing.TB) string {
	return newPacketService(t, func(c *net.UDPConn) {
		b := make([]byte, MaxPacket)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteToUDPAddrPort(b[:n], from)
			}
		}
	})
}

func openFlow(t testing.TB, c *Conn) *Flow {
	t.Helper()
	p, err := c.OpenFlow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// bounce sends one datagram and wants it back, in one piece.
func bounce(t testing.TB, p net.Conn, datagram []byte) {
	t.Helper()
	if err := p.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(datagram); err != nil {
		t.Fatalf("write %d bytes: %v", len(datagram), err)
	}
	got := make([]byte, MaxPacket)
	n, err := p.Read(got)
	if err != nil {
		t.Fatalf("read, after %d bytes were sent: %v", len(datagram), err)
	}
	if !bytes.Equal(got[:n], datagram) {
		t.Fatalf("got %d bytes, sent %d", n, len(datagram))
	}
}

// pattern is n bytes that are not all alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// sizes are around what fits into a QUIC packet, and far from it.
func sizes() []int { return []int{0, 1, 1200, 1400, 1451, 1452, 1453, 9000, 65_000, 65_507} }

func TestDatagramsOfAllSizesTravelBothWays(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	p := openFlow(t, h.dial(h.grant()))
	for round := range 3 { // QUIC's packets grow meanwhile
		for _, n := range sizes() {
			bounce(t, p, pattern(n))
		}
		if round == 0 {
			for range 50 {
				bounce(t, p, pattern(100))
			}
		}
	}
}

func TestAThousandDatagramsArriveOnceEach(t *testing.T) {
	const all, window = 1000, 16
	h := newHouse(t, loopback4)
	p := openFlow(t, h.dial(h.grant()))
	if err := p.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint32]int)
	size := func(number uint32) int { return []int{4, 200, 1200, 1400, 3000}[number%5] }
	b := make([]byte, MaxPacket)
	for sent := uint32(0); len(seen) < all; {
		for ; sent < all && int(sent)-len(seen) < window; sent++ {
			datagram := pattern(size(sent))
			binary.BigEndian.PutUint32(datagram, sent)
			if _, err := p.Write(datagram); err != nil {
				t.Fatal(err)
			}
		}
		n, err := p.Read(b)
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(seen), all, err)
		}
		number := binary.BigEndian.Uint32(b)
		if n != size(number) || !bytes.Equal(b[4:n], pattern(n)[4:]) {
			t.Fatalf("number %d has %d bytes, or not those that were sent", number, n)
		}
		seen[number]++
	}
	for number, times := range seen {
		if times != 1 {
			t.Errorf("number %d came %d times", number, times)
		}
	}
}

func TestAHundredFlowsAtOnceStayApart(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	var running sync.WaitGroup
	for i := range 100 {
		running.Go(func() {
			p, err := conn.OpenFlow(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for round := range 20 {
				text := fmt.Sprintf("flow %d, round %d", i, round)
				p.SetReadDeadline(time.Now().Add(20 * time.Second))
				p.Write([]byte(text))
				b := make([]byte, 100)
				if n, err := p.Read(b); err != nil || string(b[:n]) != text {
					t.Errorf("%s: got %q, %v", text, b[:n], err)
					return
				}
			}
		})
	}
	running.Wait()
}

func TestTheEndOfASessionCutsItsFlows(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	address := newPacketEcho(t)
	closed := make(chan struct{}, 2)
	h.handlePacket(func(ctx context.Context, _ Peer) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", address)
		return &closing{Conn: c, closed: closed}, err
	})
	s := h.grant()
	conn := h.dial(s)
	a, b := openFlow(t, conn), openFlow(t, conn)
	bounce(t, a, []byte("a"))
	bounce(t, b, []byte("b"))
	h.server.CloseSession(s.id, ReasonRevoked, "by the test")
	for _, p := range []*Flow{a, b} {
		if _, err := p.Read(make([]byte, 10)); !errors.Is(err, ErrRevoked) {
			t.Errorf("read: got %v", err)
		}
		if _, err := p.Write([]byte("more")); !errors.Is(err, ErrRevoked) {
			t.Errorf("write: got %v", err)
		}
	}
	if _, err := conn.OpenFlow(t.Context()); !errors.Is(err, ErrRevoked) {
		t.Errorf("open: got %v", err)
	}
	for range 2 {
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatal("the host keeps a socket to the service")
		}
	}
}

// closing tells when it is closed for the first time.
type closing struct {
	net.Conn
	closed chan<- struct{}
	once   sync.Once
}

func (c *closing) Close() error {
	defer c.once.Do(func() { c.closed <- struct{}{} })
	return c.Conn.Close()
}

func TestDatagramsOfNoFlowAreDroppedAndCounted(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	p := openFlow(t, conn)
	bounce(t, p, []byte("before"))
	strangers := [][]byte{
		appendDatagram(nil, p.id+1, []byte("another flow's")),
		appendDatagram(nil, 1<<61, []byte("far away")),
		{},           // not even a number
		{0xff, 0xff}, // a number cut short
	}
	for _, b := range strangers {
		if err := conn.quic.SendDatagram(b); err != nil {
			t.Fatal(err)
		}
	}
	bounce(t, p, []byte("after"))
	eventually(t, "the strangers are counted", func() bool {
		return h.server.FlowCounters().Strangers == uint64(len(strangers))
	})
	p.Close()
	again := openFlow(t, conn)
	if err := conn.quic.SendDatagram(appendDatagram(nil, p.id, []byte("late"))); err != nil {
		t.Fatal(err)
	}
	bounce(t, again, []byte("another flow"))
	eventually(t, "what comes after a flow's end is counted", func() bool {
		return h.server.FlowCounters().Strangers == uint64(len(strangers))+1
	})
}

func TestASlowReaderLosesTheNewestAndHoldsUpNobody(t *testing.T) {
	for _, size := range []int{8, 1000, 20_000} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			h := newHouse(t, loopback4)
			conn := h.dial(h.grant())
			other := openFlow(t, conn)
			h.dialPacketTo(newFlood(t, size))
			slow := openFlow(t, conn)
			slow.Write([]byte("begin"))
			eventually(t, "the queue is full", func() bool { return conn.FlowCounters().Dropped > 100 })
			for range 20 {
				// The flood may crowd a datagram out on its way: as UDP does.
				eventually(t, "the other flow goes on", func() bool { return answered(other) })
			}
			if held := slow.queued.Load(); held > queueBytes+MaxPacket || len(slow.in) > queuePackets {
				t.Errorf("%d bytes in %d datagrams wait", held, len(slow.in))
			}
			b := make([]byte, MaxPacket)
			if n, err := slow.Read(b); err != nil || n != size || binary.BigEndian.Uint32(b) > 200 {
				t.Errorf("the first one to be read is number %d, %d bytes, %v", binary.BigEndian.Uint32(b), n, err)
			}
		})
	}
}

// newFlood is a service that goes on sending numbered datagrams to whom it hears.
func newFlood(t testing.TB, size int) string {
	return newPacketService(t, func(c *net.UDPConn) {
		b := make([]byte, max(size, 100))
		_, to, err := c.ReadFromUDPAddrPort(b)
		for i := uint32(0); !errors.Is(err, net.ErrClosed); i++ {
			binary.BigEndian.PutUint32(b, i)
			_, err = c.WriteToUDPAddrPort(b[:size], to)
		}
	})
}

// answered reports whether a datagram comes back soon.
func answered(p net.Conn) bool {
	p.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	p.Write([]byte("ping"))
	b := make([]byte, 10)
	n, err := p.Read(b)
	return err == nil && string(b[:n]) == "ping"
}

func TestSilentFlowsEnd(t *testing.T) {
	testkit.NoLeak(t)
	h := openHouse(t, loopback4)
	h.tune = func(c *ServerConfig) { c.FlowIdle = 2 * time.Second }
	h.serve()
	conn := h.dial(h.grant())
	silent := openFlow(t, conn)
	bounce(t, silent, []byte("once"))
	heard := make(chan []byte, 1000)
	h.dialPacketTo(newPacketService(t, func(c *net.UDPConn) { // listens only
		for b := make([]byte, 100); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			heard <- bytes.Clone(b[:n])
		}
	}))
	up := openFlow(t, conn)
	h.dialPacketTo(newPacketService(t, func(c *net.UDPConn) { // sends only, but for the first
		_, to, err := c.ReadFromUDPAddrPort(make([]byte, 100))
		for err == nil {
			_, err = c.WriteToUDPAddrPort([]byte("news"), to)
			waitFor(50 * time.Millisecond)
		}
	}))
	down := openFlow(t, conn)
	down.Write([]byte("subscribe"))
	begin := time.Now()
	for n := 0; time.Since(begin) < 6*time.Second; n++ { // three times the limit
		if _, err := up.Write(nil); err != nil {
			t.Fatalf("a flow that sends was ended: %v", err)
		}
		down.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := down.Read(make([]byte, 10)); err != nil {
			t.Fatalf("a flow that hears was ended: %v", err)
		}
	}
	silent.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent.Read(make([]byte, 10)); !errors.Is(err, io.EOF) {
		t.Errorf("read: got %v, want the end", err)
	}
	if _, err := silent.Write([]byte("more")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: got %v", err)
	}
	for len(heard) > 0 {
		<-heard
	}
	up.Write([]byte("still there"))
	select {
	case b := <-heard:
		if len(b) > 0 && string(b) != "still there" {
			t.Errorf("got %q", b)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing arrives any more")
	}
}

func waitFor(d time.Duration) { <-time.After(d) }

func TestAPortThatNobodyListensOnEndsNoFlow(t *testing.T) {
	h := newHouse(t, loopback4)
	free, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().(*net.UDPAddr)
	free.Close()
	h.dialPacketTo(address.String())
	p := openFlow(t, h.dial(h.grant()))
	for range 20 { // each is answered with ICMP's "port unreachable"
		if _, err := p.Write([]byte("nobody there?")); err != nil {
			t.Fatal(err)
		}
		waitFor(5 * time.Millisecond)
	}
	late, err := net.ListenUDP("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	eventually(t, "the service, which is late, hears the flow", func() bool {
		p.Write([]byte("there?"))
		late.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 100)
		n, _, err := late.ReadFromUDP(b)
		return err == nil && string(b[:n]) == "there?"
	})
}

func TestFlowsThatAreRefusedSayWhy(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	for _, test := range []struct {
		give, want error
	}{
		{&RefusedError{StatusDenied, "over at noon"}, ErrDenied},
		{errors.New("secret detail"), ErrUnreachable},
		{nil, ErrUnreachable},
	} {
		h.handlePacket(func(context.Context, Peer) (net.Conn, error) { return nil, test.give })
		if _, err := conn.OpenFlow(t.Context()); !errors.Is(err, test.want) {
			t.Errorf("%v: got %v", test.give, err)
		}
	}
	if n := len(conn.flows.live); n != 0 {
		t.Errorf("%d flows are left", n)
	}

	other := h.grant()
	conn.session = other.id
	if _, err := conn.OpenFlow(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("another session's flow: got %v", err)
	}

	h = openHouse(t, loopback4)
	h.tune = func(c *ServerConfig) { c.ConnectPacket = nil }
	h.serve()
	conn = h.dial(h.grant())
	_, err := conn.OpenFlow(t.Context())
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Text != "this host has no UDP services" {
		t.Errorf("got %v", err)
	}
	echo(t, open(t, conn), "TCP goes on")
}

func TestFlowsAreBoundedAndTheirPlacesComeBack(t *testing.T) {
	h := openHouse(t, loopback4)
	h.tune = func(c *ServerConfig) { c.MaxFlows = 3 }
	h.serve()
	conn := h.dial(h.grant())
	var all []*Flow
	for range 3 {
		all = append(all, openFlow(t, conn))
	}
	if _, err := conn.OpenFlow(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("the fourth: got %v", err)
	}
	for _, p := range all {
		p.Close()
	}
	eventually(t, "there is place again", func() bool {
		p, err := conn.OpenFlow(t.Context())
		if err == nil {
			p.Close()
		}
		return err == nil
	})
}

// TestOpeningAndClosingLeavesNothing: more flows in all than there may be streams at
// once, closed with datagrams on their way, by either end.
func TestOpeningAndClosingLeavesNothing(t *testing.T) {
	testkit.NoLeak(t)
	h := openHouse(t, loopback4)
	h.tune = func(c *ServerConfig) { c.MaxStreams = 8 }
	h.serve()
	conn := h.dial(h.grant())
	var running sync.WaitGroup
	for worker := range 8 {
		running.Go(func() {
			for i := range 25 {
				p, err := conn.OpenFlow(t.Context())
				if err != nil {
					t.Errorf("flow %d of worker %d: %v", i, worker, err)
					return
				}
				var using sync.WaitGroup
				using.Go(func() {
					for n := 0; ; n++ {
						if _, err := p.Write(pattern(n % 2 * 5000)); err != nil {
							return
						}
					}
				})
				using.Go(func() {
					for b := make([]byte, MaxPacket); ; {
						if _, err := p.Read(b); err != nil {
							return
						}
					}
				})
				waitFor(time.Millisecond)
				p.Close()
				p.Close()
				using.Wait()
				if _, err := p.Write(nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write after close: got %v", err)
				}
			}
		})
	}
	running.Wait()
	conn.flows.mu.Lock()
	if n := len(conn.flows.live); n != 0 {
		t.Errorf("%d flows are left", n)
	}
	conn.flows.mu.Unlock()
	bounce(t, openFlow(t, conn), []byte("one more"))
}

func TestFlowsEndWithTheirConnectionWhileOpening(t *testing.T) {
	testkit.NoLeak(t)
	h := newHouse(t, loopback4)
	for range 10 {
		conn := h.dial(h.grant())
		var opening sync.WaitGroup
		for range 4 {
			opening.Go(func() {
				for {
					p, err := conn.OpenFlow(t.Context())
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("open: got %v", err)
						}
						return
					}
					p.Write([]byte("x"))
				}
			})
		}
		waitFor(2 * time.Millisecond)
		conn.Close()
		opening.Wait()
	}
}

// TestWhatTheServiceSendsFirstArrives: the host's first datagrams travel in the same
// packet as its answer, and ahead of it.
func TestWhatTheServiceSendsFirstArrives(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	h.handlePacket(func(context.Context, Peer) (net.Conn, error) {
		service, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		defer service.Close()
		c, err := net.DialUDP("udp", nil, service.LocalAddr().(*net.UDPAddr))
		if err == nil {
			_, err = service.WriteTo([]byte("welcome"), c.LocalAddr())
		}
		return c, err
	})
	for range 50 {
		p := openFlow(t, conn)
		p.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 100)
		if n, err := p.Read(b); err != nil || string(b[:n]) != "welcome" {
			t.Fatalf("got %q, %v", b[:n], err)
		}
		p.Close()
	}
	if n := conn.FlowCounters().Strangers; n != 0 {
		t.Errorf("%d datagrams found no flow", n)
	}
}

func TestDeadlinesOfAFlow(t *testing.T) {
	h := newHouse(t, loopback4)
	p := openFlow(t, h.dial(h.grant()))
	b := make([]byte, 10)
	p.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := p.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past: got %v", err)
	}
	p.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := p.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("soon: got %v", err)
	}
	p.SetReadDeadline(time.Time{})
	read := make(chan error, 1)
	go func() {
		_, err := p.Read(b)
		read <- err
	}()
	waitFor(20 * time.Millisecond)
	p.SetReadDeadline(time.Now()) // of a Read that waits already
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("moved: got %v", err)
	}
	bounce(t, p, []byte("goes on"))
	if _, err := p.Write(make([]byte, MaxPacket+1)); !errors.Is(err, ErrPacketSize) {
		t.Errorf("too long: got %v", err)
	}
	if n, err := p.Write(pattern(300)); n != 300 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if n, err := p.Read(b); n != len(b) || err != nil { // the rest is lost
		t.Errorf("got %d, %v", n, err)
	}
	bounce(t, p, []byte("the next"))
}

func TestFlowsSurviveARebindingNAT(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	p := openFlow(t, dial(t, c))
	for range 3 {
		bounce(t, p, []byte("before"))
		nat.rebind(t)
		begin := time.Now()
		// Datagrams on the broken path are lost; somebody sends new ones.
		eventually(t, "the flow goes on", func() bool { return answered(p) })
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		bounce(t, p, pattern(5000))
	}
}

// TestCloseWakesAWriteThatThePathHoldsUp: long before the connection is given up.
func TestCloseWakesAWriteThatThePathHoldsUp(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	p := openFlow(t, dial(t, c))
	bounce(t, p, []byte("before"))
	nat.mu.Lock()
	nat.outside.Close()
	nat.mu.Unlock()
	var written atomic.Int64
	writing := make(chan error, 1)
	go func() {
		for {
			if _, err := p.Write(pattern(60_000)); err != nil {
				writing <- err
				return
			}
			written.Add(1)
		}
	}()
	last := int64(-1)
	eventually(t, "a write waits", func() bool {
		waitFor(100 * time.Millisecond)
		now := written.Load()
		defer func() { last = now }()
		return now == last
	})
	begin := time.Now()
	p.Close()
	select {
	case err := <-writing:
		if took := time.Since(begin); took > 5*time.Second || !errors.Is(err, net.ErrClosed) {
			t.Errorf("took %v, %v", took, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the write still waits")
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add(appendDatagram(nil, 0, []byte("x")))
	f.Add(appendDatagram(nil, 1<<62-1, nil))
	f.Add([]byte{0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, payload, ok := parseDatagram(b)
		if !ok {
			if id != 0 || payload != nil {
				t.Error("a value beside a no")
			}
			return
		}
		if id >= 1<<62 || payload == nil || !bytes.HasSuffix(b, payload) {
			t.Errorf("%x: flow %d, %x", b, id, payload)
		}
		again, same, ok := parseDatagram(appendDatagram(nil, id, payload))
		if !ok || again != id || !bytes.Equal(same, payload) {
			t.Errorf("%x: wrote what reads as flow %d, %x", b, again, same)
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, nil), []byte("foo")))
	f.Add([]byte{0, 3, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var again []byte
		for {
			payload, err := readFrame(r)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			again = appendFrame(again, payload)
		}
		if !bytes.HasPrefix(b, again) {
			t.Errorf("read %x, wrote %x", b, again)
		}
	})
}

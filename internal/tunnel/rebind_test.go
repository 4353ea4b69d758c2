package tunnel

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// relay is a NAT: it carries one client's datagrams to a server from a socket of
// its own, which it can change.
type relay struct {
	inside  *net.UDPConn
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	server  netip.AddrPort
	client  netip.AddrPort
	outside *net.UDPConn
	// Datagrams of a path challenge's size since the last change.
	asked, answered int
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
			if n == challengeSize {
				r.answered++
			}
			r.outside.WriteToUDPAddrPort(b[:n], r.server)
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
	r.outside, r.asked, r.answered = outside, 0, 0
	r.running.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, err := outside.Read(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			client := r.client
			if n == challengeSize {
				r.asked++
			}
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
	stalls := testkit.WatchStalls(t)
	begin := time.Now()
	conn.Knock()
	echo(t, stream, "after")
	if took := time.Since(begin); took > stalls.Within(mostPatience) {
		t.Errorf("took %v", took)
	}
}

// Knocks tell an observer that a session is alive; a healthy path needs none.
func TestHealthyPathIsNotKnockedAt(t *testing.T) {
	h := newHouse(t, loopback4)
	stream := open(t, h.dial(h.grant()))
	for range 3 {
		echo(t, stream, "tick")
		stream.SetReadDeadline(time.Now().Add(mostPatience + quiet))
		if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatal("got something")
		}
	}
	if got := h.gate.Counters().Knocks; got != 1 {
		t.Errorf("%d knocks", got)
	}
}

// counted is a reader of a stream that counts up, byte for byte, and of the longest
// stall.
func counted(t *testing.T, r io.Reader, stop <-chan struct{}) (longest time.Duration, n int) {
	t.Helper()
	buf := make([]byte, 1<<16)
	last := time.Now()
	for {
		read, err := r.Read(buf)
		select {
		case <-stop:
			return longest, n
		default:
		}
		if err != nil {
			t.Errorf("after %d bytes: %v", n, err)
			return longest, n
		}
		for i, b := range buf[:read] {
			if b != byte((n+i)%251) {
				t.Errorf("byte %d is %d", n+i, b)
				return longest, n
			}
		}
		n += read
		longest, last = max(longest, time.Since(last)), time.Now()
	}
}

// countUp writes a stream that counts up until it is stopped, at a pace that a slow
// machine bears.
func countUp(w io.Writer, stop <-chan struct{}) {
	pattern := make([]byte, 251*64)
	for i := range pattern {
		pattern[i] = byte(i % 251)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if _, err := w.Write(pattern); err != nil {
			return
		}
	}
}

// stallBound is generous: machines are noisy. Without a knock of the client's own
// accord, a download stalls for up to ten seconds, an upload for one or two.
const stallBound = 900 * time.Millisecond

func TestADownloadGoesOnBehindAnotherAddressOfTheNAT(t *testing.T) {
	h := newHouse(t, loopback4)
	stop := make(chan struct{})
	h.dialTo(newService(t, func(c *net.TCPConn) { countUp(c, stop) }))
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	stream := open(t, dial(t, c))
	done := make(chan time.Duration, 1)
	go func() {
		longest, n := counted(t, stream, stop)
		t.Logf("longest stall %v, %d bytes", longest, n)
		done <- longest
	}()
	stalls := testkit.WatchStalls(t)
	for range 3 {
		time.Sleep(600 * time.Millisecond) // of a steady transfer
		nat.rebind(t)
	}
	time.Sleep(1500 * time.Millisecond)
	close(stop)
	if longest := <-done; longest > stalls.Within(stallBound) {
		t.Errorf("the transfer stalled for %v", longest)
	}
}

func TestAnUploadGoesOnBehindAnotherAddressOfTheNAT(t *testing.T) {
	h := newHouse(t, loopback4)
	stop := make(chan struct{})
	done := make(chan time.Duration, 1)
	h.dialTo(newService(t, func(c *net.TCPConn) {
		longest, n := counted(t, c, stop)
		t.Logf("longest stall %v, %d bytes", longest, n)
		done <- longest
	}))
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	stream := open(t, dial(t, c))
	end := make(chan struct{})
	defer close(end)
	go countUp(stream, end)
	stalls := testkit.WatchStalls(t)
	for range 3 {
		time.Sleep(600 * time.Millisecond) // of a steady transfer
		nat.rebind(t)
	}
	time.Sleep(1500 * time.Millisecond)
	close(stop)
	if longest := <-done; longest > stalls.Within(stallBound) {
		t.Errorf("the transfer stalled for %v", longest)
	}
}

// What the old path has lost fills the congestion window of a transfer as fast as the
// line allows. The host's question whether the client is at the new address does not
// wait for room in it: it is answered in a datagram of its own.
func TestTheHostsQuestionIsAnsweredThoughTheCongestionWindowIsFull(t *testing.T) {
	h := newHouse(t, loopback4)
	h.dialTo(newService(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) }))
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	conn := dial(t, c)
	stream := open(t, conn)
	eventually(t, "QUIC to know of the way for answers", conn.aside.known.Load)
	written := make(chan error, 1)
	go func() { // ends with the connection
		for chunk := make([]byte, 1<<16); ; {
			if _, err := stream.Write(chunk); err != nil {
				written <- err
				return
			}
		}
	}()
	t.Cleanup(h.stop) // what the client says in the end may be lost
	for range 5 {
		nat.rebind(t)
		eventually(t, "a question, and its answer by itself", func() bool {
			nat.mu.Lock()
			defer nat.mu.Unlock()
			return nat.asked > 0 && nat.answered > 0
		})
		reads := conn.gate.watch.reads.Load()
		eventually(t, "the transfer to go on", func() bool { return conn.gate.watch.reads.Load() > reads+50 })
	}
	conn.Close()
	if err := <-written; !errors.Is(err, ErrClosed) {
		t.Errorf("writing ended with %v", err)
	}
}

// Who listens asks nothing: it has to wonder.
func TestWhoOnlyListensFindsOutToo(t *testing.T) {
	h := newHouse(t, loopback4)
	say := make(chan string)
	h.dialTo(newService(t, func(c *net.TCPConn) {
		for text := range say {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}))
	defer close(say)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	stream := open(t, dial(t, c))
	got := make([]byte, 5)
	for range 2 * talk { // a lively conversation
		say <- "tick!"
		if _, err := io.ReadFull(stream, got); err != nil {
			t.Fatal(err)
		}
	}
	nat.rebind(t)
	begin := time.Now()
	say <- "after"
	if _, err := io.ReadFull(stream, got); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took) // the next keep-alive would have come after ten
	}
}

func TestAnIdleTunnelFeelsNoPulse(t *testing.T) {
	h := newHouse(t, loopback4)
	conn := h.dial(h.grant())
	echo(t, open(t, conn), "hello")
	eventually(t, "the pulse to rest", func() bool { return conn.pulse.watch.parked.Load() })
	echo(t, open(t, conn), "again")
	eventually(t, "the pulse to rest again", func() bool { return conn.pulse.watch.parked.Load() })
}

func TestAHostThatIsGoneIsGivenUp(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses, c.Idle = []netip.AddrPort{nat.address()}, 3*time.Second
	conn := dial(t, c)
	stream := open(t, conn)
	echo(t, stream, "before")
	nat.mu.Lock()
	nat.server = netip.MustParseAddrPort("127.0.0.1:9") // nobody
	nat.mu.Unlock()
	io.WriteString(stream, "is anybody there?")
	select {
	case <-conn.Done():
	case <-time.After(time.Minute): // a busy machine counts little of its time as awake
		t.Fatal("it is not given up")
	}
	if !errors.Is(conn.Err(), ErrLost) {
		t.Errorf("got %v, want %v", conn.Err(), ErrLost)
	}
}

func TestTimeAsleepIsNotCountedAsSilence(t *testing.T) {
	for _, planned := range []time.Duration{0, leastHush, knockRarely} {
		if got := awake(planned, time.Hour); got >= lostAfter/4 {
			t.Errorf("an hour asleep in a wait of %v counts for %v", planned, got)
		}
		if got := awake(planned, planned); got != planned {
			t.Errorf("a wait of %v counts for %v", planned, got)
		}
	}
}

func TestAPathThatStandsStillForAWhileLosesNothing(t *testing.T) {
	h := newHouse(t, loopback4)
	nat := newRelay(t, h.address())
	c := h.config(h.grant())
	c.Addresses = []netip.AddrPort{nat.address()}
	stream := open(t, dial(t, c))
	echo(t, stream, "before")
	nat.mu.Lock() // nothing goes through, as on a machine that sleeps
	io.WriteString(stream, "long ago")
	time.Sleep(3 * time.Second)
	nat.mu.Unlock()
	nat.rebind(t)
	got := make([]byte, 8)
	stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(stream, got); err != nil || string(got) != "long ago" {
		t.Errorf("got %q, %v", got, err)
	}
}

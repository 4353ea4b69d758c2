package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// tcpPair returns two ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, b = dialled.(*net.TCPConn), (<-accepted).(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// ends is a tunnel from one TCP connection to another, as client and host carry it.
type ends struct {
	app, service *net.TCPConn
	conn         *Conn
	cancel       context.CancelCauseFunc
	done         chan error // of the client's copy
}

func newEnds(t *testing.T) *ends {
	t.Helper()
	h := newHouse(t, loopback4)
	backend, service := tcpPair(t)
	h.handle(func(context.Context, Peer) (Duplex, error) { return backend, nil })
	e := &ends{service: service, conn: h.dial(h.grant()), done: make(chan error, 1)}
	var local *net.TCPConn
	e.app, local = tcpPair(t)
	stream := open(t, e.conn)
	var ctx context.Context
	ctx, e.cancel = context.WithCancelCause(context.Background())
	t.Cleanup(func() { e.cancel(nil) })
	go func() {
		_, _, err := Copy(ctx, local, stream)
		e.done <- err
	}()
	io.WriteString(e.app, "hi")
	if _, err := io.ReadFull(service, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	return e
}

func wantReset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := io.Copy(io.Discard, c)
	if !testkit.IsReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestResetsPassThrough(t *testing.T) {
	t.Run("of the app", func(t *testing.T) {
		testkit.NoLeak(t)
		e := newEnds(t)
		e.app.SetLinger(0)
		e.app.Close()
		wantReset(t, e.service)
		if err := <-e.done; !testkit.IsReset(err) {
			t.Errorf("copy: got %v", err)
		}
	})
	t.Run("of the service", func(t *testing.T) {
		testkit.NoLeak(t)
		e := newEnds(t)
		e.service.SetLinger(0)
		e.service.Close()
		wantReset(t, e.app)
		if err := <-e.done; !errors.Is(err, ErrReset) {
			t.Errorf("copy: got %v", err)
		}
	})
	t.Run("of the tunnel", func(t *testing.T) {
		testkit.NoLeak(t)
		e := newEnds(t)
		e.conn.Close()
		wantReset(t, e.service)
		wantReset(t, e.app)
		if err := <-e.done; err == nil {
			t.Error("copy: no error")
		}
	})
	t.Run("of the context", func(t *testing.T) {
		testkit.NoLeak(t)
		e := newEnds(t)
		why := errors.New("out of time")
		e.cancel(why)
		wantReset(t, e.service)
		wantReset(t, e.app)
		if err := <-e.done; !errors.Is(err, why) {
			t.Errorf("copy: got %v", err)
		}
	})
}

func TestResponseOfAServiceThatReadsNoMoreArrives(t *testing.T) {
	e := newEnds(t)
	const size = 5 << 20
	go func() {
		e.service.Write(make([]byte, size))
		e.service.CloseWrite()
	}()
	go pour(e.app)
	e.app.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(io.Discard, e.app); n != size || err != nil {
		t.Errorf("got %d bytes of %d, %v", n, size, err)
	}
}

// A service that closes with unread bytes resets its connection, which may lose
// what it had written. That must not look like the end of a complete response.
func TestLostResponseDoesNotLookComplete(t *testing.T) {
	const size = 5 << 20
	h := newHouse(t, loopback4)
	h.dialTo(newService(t, func(c *net.TCPConn) { c.Write(make([]byte, size)) }))
	conn := h.dial(h.grant())
	for range 30 {
		stream := open(t, conn)
		go pour(stream)
		stream.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := io.Copy(io.Discard, stream); n < size && !errors.Is(err, ErrReset) {
			t.Fatalf("after %d bytes of %d: got %v, want a reset", n, size, err)
		}
	}
}

// deaf cannot be written to and has nothing to say.
type deaf struct{ closed chan struct{} }

func (d deaf) Read([]byte) (int, error)  { <-d.closed; return 0, io.EOF }
func (d deaf) Write([]byte) (int, error) { return 0, syscall.EPIPE }
func (d deaf) CloseWrite() error         { return nil }
func (d deaf) Close() error              { return nil }

func TestWriterLearnsThatNobodyReads(t *testing.T) {
	h := newHouse(t, loopback4)
	d := deaf{make(chan struct{})}
	defer close(d.closed)
	h.handle(func(context.Context, Peer) (Duplex, error) { return d, nil })
	stream := open(t, h.dial(h.grant()))
	stream.SetWriteDeadline(time.Now().Add(5 * time.Second))
	for {
		if _, err := stream.Write(make([]byte, 1000)); err != nil {
			if !errors.Is(err, ErrReset) {
				t.Errorf("got %v", err)
			}
			return
		}
	}
}

func TestResetTakesNothingBackThatHasEnded(t *testing.T) {
	const size = 2 << 20
	received := make(chan int, 1)
	h := newHouse(t, loopback4)
	h.dialTo(newService(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		received <- len(all)
	}))
	stream := open(t, h.dial(h.grant()))
	stream.Write(make([]byte, size))
	stream.CloseWrite()
	stream.Reset()
	if got := <-received; got != size {
		t.Errorf("the service got %d bytes of %d", got, size)
	}
}

// pour writes until it cannot any more.
func pour(c net.Conn) {
	for {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			return
		}
	}
}

func TestCopyCountsBytes(t *testing.T) {
	testkit.NoLeak(t)
	app, a := tcpPair(t)
	b, service := tcpPair(t)
	go func() {
		app.Write(make([]byte, 1_000_000))
		app.CloseWrite()
		io.Copy(io.Discard, app)
	}()
	go func() {
		io.Copy(io.Discard, service)
		service.Write(make([]byte, 2_000_000))
		service.Close()
	}()
	toB, toA, err := Copy(t.Context(), a, b)
	if toB != 1_000_000 || toA != 2_000_000 || err != nil {
		t.Errorf("got %d, %d, %v", toB, toA, err)
	}
}

func TestBuffersGrowAndShrink(t *testing.T) {
	b, small := make([]byte, minBuffer), 0
	for range 10 {
		b, small = resize(b, len(b), small)
	}
	if len(b) != maxBuffer {
		t.Errorf("grown: %d bytes", len(b))
	}
	for range shrinkAfter {
		b, small = resize(b, 100, small)
	}
	if len(b) != minBuffer {
		t.Errorf("shrunk: %d bytes", len(b))
	}
}

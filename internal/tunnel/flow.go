package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/postern-sdp/postern/internal/lossy"
)

const (
	// MaxPacket is the largest datagram of a service's, in bytes.
	MaxPacket = 65_507
	// flowQueue is how many datagrams of one flow wait for a slow reader; more are
	// lost, the newest first.
	flowQueue = 256
	// flowBytes bounds what waits, in bytes.
	flowBytes = 1 << 20
)

// Flow is one UDP flow's way through a tunnel. It is a [net.Conn] each of whose
// Reads and Writes is one datagram, and it loses them as UDP does.
//
// A flow is a stream, on which it is asked for and answered as any other. Its
// datagrams travel as QUIC's (RFC 9221), behind the number of the stream divided
// by four, as HTTP's do (RFC 9297). One that does not fit into a packet takes the
// stream: two bytes of length, and itself. The flow ends with its stream.
type Flow struct {
	stream *Stream
	conn   *quic.Conn
	number uint64
	flows  *flows
	in     chan []byte
	queued atomic.Int64 // bytes in in
	over   chan struct{}
	once   sync.Once
	err    error // why it is over; set before over is closed

	writing sync.Mutex // one frame on the stream at a time
	read    deadline
}

var _ net.Conn = (*Flow)(nil)

// flows are those of one connection.
type flows struct {
	lost atomic.Uint64 // datagrams that nobody waited for, or that found no room

	mu   sync.Mutex // guards open
	open map[uint64]*Flow
}

func newFlows() *flows { return &flows{open: make(map[uint64]*Flow)} }

// receive hands out the connection's datagrams until it ends.
func (f *flows) receive(conn *quic.Conn) {
	for {
		b, err := conn.ReceiveDatagram(conn.Context())
		if err != nil {
			return
		}
		number, n, err := quicvarint.Parse(b)
		if err != nil {
			f.lost.Add(1)
			continue
		}
		f.mu.Lock()
		flow := f.open[number]
		f.mu.Unlock()
		if flow == nil {
			f.lost.Add(1)
			continue
		}
		flow.deliver(b[n:])
	}
}

// begin makes a flow of an answered stream. It must be closed.
func (f *flows) begin(conn *quic.Conn, s *Stream) *Flow {
	flow := &Flow{
		stream: s, conn: conn, number: uint64(s.quic.StreamID()) / 4, flows: f,
		in: make(chan []byte, flowQueue), over: make(chan struct{}),
	}
	f.mu.Lock()
	f.open[flow.number] = flow
	f.mu.Unlock()
	go flow.frames() // ends with the stream, which Close ends
	return flow
}

func (f *Flow) deliver(b []byte) {
	if f.queued.Add(int64(len(b))) <= flowBytes {
		select {
		case f.in <- b:
			return
		default:
		}
	}
	f.queued.Add(-int64(len(b)))
	f.flows.lost.Add(1)
}

// take copies a datagram out of the queue.
func (f *Flow) take(to, d []byte) (int, error) {
	f.queued.Add(-int64(len(d)))
	return copy(to, d), nil
}

// frames reads what came on the stream.
func (f *Flow) frames() {
	var size [2]byte
	for {
		if _, err := io.ReadFull(f.stream, size[:]); err != nil {
			f.end(err)
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(f.stream, b); err != nil {
			f.end(unexpected(err))
			return
		}
		f.deliver(b)
	}
}

func (f *Flow) end(err error) {
	f.once.Do(func() {
		f.flows.mu.Lock()
		delete(f.flows.open, f.number)
		f.flows.mu.Unlock()
		f.err = err
		close(f.over)
	})
}

// Read implements [net.Conn]: it returns one datagram, cut to the length of b.
// After the flow's end the error is io.EOF or what ended it.
func (f *Flow) Read(b []byte) (int, error) {
	select {
	case d := <-f.in:
		return f.take(b, d)
	default:
	}
	timeout, stop := f.read.wait()
	defer stop()
	select {
	case d := <-f.in:
		return f.take(b, d)
	case <-f.over:
		return 0, f.err
	case <-timeout:
		return 0, os.ErrDeadlineExceeded
	}
}

// Write implements [net.Conn]. What does not fit into a packet goes by the stream,
// and blocks while the other end does not read that.
func (f *Flow) Write(b []byte) (int, error) {
	select {
	case <-f.over:
		return 0, f.err
	default:
	}
	if len(b) > MaxPacket {
		return 0, fmt.Errorf("%w: %d bytes", ErrPacketSize, len(b))
	}
	err := f.conn.SendDatagram(append(quicvarint.Append(make([]byte, 0, len(b)+8), f.number), b...))
	if _, large := errors.AsType[*quic.DatagramTooLargeError](err); large {
		return f.writeFrame(b)
	}
	if err != nil {
		return 0, translate(err)
	}
	return len(b), nil
}

func (f *Flow) writeFrame(b []byte) (int, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
	if _, err := f.stream.Write(frame); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements [net.Conn]. It may be called more than once.
func (f *Flow) Close() error {
	f.end(net.ErrClosed)
	f.stream.Reset()
	return nil
}

// LocalAddr implements [net.Conn].
func (f *Flow) LocalAddr() net.Addr { return f.conn.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (f *Flow) RemoteAddr() net.Addr { return f.conn.RemoteAddr() }

// SetDeadline implements [net.Conn], for Reads that begin after it.
func (f *Flow) SetDeadline(t time.Time) error {
	return errors.Join(f.SetReadDeadline(t), f.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn], for Reads that begin after it.
func (f *Flow) SetReadDeadline(t time.Time) error {
	f.read.set(t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (f *Flow) SetWriteDeadline(t time.Time) error { return f.stream.SetWriteDeadline(t) }

// deadline is a time that Reads wait until.
type deadline struct {
	mu sync.Mutex
	at time.Time
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
}

func (d *deadline) wait() (timeout <-chan time.Time, stop func()) {
	d.mu.Lock()
	at := d.at
	d.mu.Unlock()
	if at.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(at))
	return t.C, func() { t.Stop() }
}

// FlowIdle is the silence, in both directions, that ends a UDP flow (RFC 4787, REQ-5).
const FlowIdle = 5 * time.Minute

// CopyPackets carries datagrams between a and b until one of them ends, ctx does,
// or both are silent for [FlowIdle]. It closes both, and returns what went from a to
// b and back, in bytes.
func CopyPackets(ctx context.Context, a, b net.Conn) (there, back uint64) {
	var last atomic.Int64
	begun := time.Now()
	var count [2]atomic.Uint64
	shut := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	stop := context.AfterFunc(ctx, shut)
	defer stop()
	watch := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(FlowIdle / 10)
		defer tick.Stop()
		for {
			select {
			case <-watch:
				return
			case <-tick.C:
				if time.Since(begun)-time.Duration(last.Load()) > FlowIdle {
					shut()
				}
			}
		}
	})
	carry := func(to, from net.Conn, n *atomic.Uint64) {
		defer shut()
		buf := make([]byte, MaxPacket+1)
		for {
			size, err := from.Read(buf)
			if err != nil && !lossy.Is(err) {
				return
			}
			if err != nil {
				continue
			}
			last.Store(int64(time.Since(begun)))
			// A datagram that cannot be sent is lost.
			if _, err := to.Write(buf[:size]); err == nil {
				n.Add(uint64(size))
			} else if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() { carry(b, a, &count[0]) })
	both.Go(func() { carry(a, b, &count[1]) })
	both.Wait()
	close(watch)
	all.Wait()
	return count[0].Load(), count[1].Load()
}

package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// What a flow keeps for a reader that is slow. What comes beyond it is lost, as it is
// in a socket: the newest datagrams.
const (
	queuePackets = 256
	queueBytes   = 256 << 10 // reached, nothing more is kept
)

// Flow is one UDP flow's way through a tunnel: a [net.Conn] whose every Read and
// Write is one datagram of at most [MaxPacket] bytes. Like any datagram, one may get lost or
// overtake another. All methods may be called concurrently.
type Flow struct {
	stream *Stream
	flows  *flows
	id     uint64
	begin  time.Time
	used   atomic.Int64 // when a datagram last came or went, since begin

	in     chan []byte // datagrams for the reader
	queued atomic.Int64

	writing sync.Mutex
	out     []byte // guarded by writing: for making frames

	mu    sync.Mutex // guards what follows
	until time.Time  // of Read; zero: for ever
	moved chan struct{}
	err   error // why the flow has ended

	done chan struct{} // closed with err
}

var _ net.Conn = (*Flow)(nil)

func newFlow(s *Stream, f *flows) *Flow {
	return &Flow{
		stream: s, flows: f, id: flowID(s.quic.StreamID()), begin: time.Now(),
		in: make(chan []byte, queuePackets), moved: make(chan struct{}), done: make(chan struct{}),
	}
}

// receive takes in what comes over the stream, and ends the flow with it.
func (p *Flow) receive() {
	for {
		b, err := readFrame(p.stream)
		if err != nil {
			p.end(err)
			return
		}
		p.deliver(b)
	}
}

// deliver queues b for the reader, or drops it. It never blocks. PROTOCOL 8.4
func (p *Flow) deliver(b []byte) {
	p.touch()
	// A datagram that alone is more than the bound must pass, too.
	if p.queued.Load() < queueBytes {
		p.queued.Add(int64(len(b)))
		select {
		case p.in <- b:
			return
		default:
			p.queued.Add(-int64(len(b)))
		}
	}
	p.flows.counts.dropped.Add(1)
}

// next returns the next datagram. What came before the flow's end is still there
// after it.
func (p *Flow) next() ([]byte, error) {
	for {
		p.mu.Lock()
		until, moved := p.until, p.moved
		p.mu.Unlock()
		if !until.IsZero() && !time.Now().Before(until) {
			return nil, os.ErrDeadlineExceeded
		}
		if b, ok := p.queue(); ok {
			return b, nil
		}
		if b, err := p.wait(until, moved); !errors.Is(err, errMoved) {
			return b, err
		}
	}
}

// queue returns what waits for the reader, if anything does.
func (p *Flow) queue() ([]byte, bool) {
	select {
	case b := <-p.in:
		return p.taken(b), true
	default:
		return nil, false
	}
}

func (p *Flow) taken(b []byte) []byte {
	p.queued.Add(-int64(len(b)))
	return b
}

// wait waits for a datagram, the deadline, the flow's end, or, with errMoved, for
// another deadline.
func (p *Flow) wait(until time.Time, moved <-chan struct{}) ([]byte, error) {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case b := <-p.in:
		return p.taken(b), nil
	case <-moved:
		return nil, errMoved
	case <-due:
		return nil, os.ErrDeadlineExceeded
	case <-p.done:
	}
	if b, ok := p.queue(); ok {
		return b, nil
	}
	return nil, p.why()
}

// Read implements [io.Reader]. Of a datagram that is longer than b, the rest is lost.
// The end of the flow by the host is [io.EOF], that of the connection the error of its
// reason.
func (p *Flow) Read(b []byte) (int, error) {
	datagram, err := p.next()
	if err != nil {
		return 0, err
	}
	return copy(b, datagram), nil
}

// Write implements [io.Writer]. It waits while the path is congested; then, Close wakes
// it up when the path moves or the connection ends.
func (p *Flow) Write(b []byte) (int, error) {
	if len(b) > MaxPacket {
		return 0, fmt.Errorf("%w: %d bytes", ErrPacketSize, len(b))
	}
	p.writing.Lock()
	err := p.why()
	if err == nil {
		err = p.send(b)
	}
	p.writing.Unlock()
	p.finish()
	if err != nil {
		return 0, p.writeError(err)
	}
	p.touch()
	return len(b), nil
}

// send sends b in one QUIC packet, or over the stream if it does not fit.
func (p *Flow) send(b []byte) error {
	if len(b) <= mayFit {
		p.out = appendDatagram(p.out[:0], p.id, b)
		err := p.stream.conn.SendDatagram(p.out)
		if _, long := errors.AsType[*quic.DatagramTooLargeError](err); !long {
			return translate(err)
		}
	}
	_, err := p.stream.Write(appendFrame(nil, b))
	return err
}

// writeError is what a Write says that failed with err. The flow's end tells more.
func (p *Flow) writeError(err error) error {
	if why := p.why(); why != nil {
		err = why
	}
	if errors.Is(err, io.EOF) {
		return io.ErrClosedPipe
	}
	return err
}

// end ends the flow; the first call's err is why.
func (p *Flow) end(err error) {
	p.mu.Lock()
	first := p.err == nil
	if first {
		p.err = err
		close(p.done)
	}
	p.mu.Unlock()
	if !first {
		return
	}
	p.flows.remove(p.id)
	p.stream.quic.CancelRead(streamDone)
	_ = p.stream.SetWriteDeadline(longAgo()) // wakes a Write
	p.finish()
}

// finish ends our direction of the stream once the flow has ended and nobody writes.
// Who writes meanwhile calls it afterwards.
func (p *Flow) finish() {
	if p.why() != nil && p.writing.TryLock() {
		_ = p.stream.CloseWrite() // what is left of the stream is the connection's to end
		p.writing.Unlock()
	}
}

func longAgo() time.Time { return time.Unix(1, 0) }

// why returns why the flow has ended, nil while it has not.
func (p *Flow) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the flow, for the host as well. It may be called more than once.
func (p *Flow) Close() error {
	p.end(net.ErrClosed)
	return nil
}

func (p *Flow) touch() { p.used.Store(int64(time.Since(p.begin))) }

// Silent returns for how long no datagram has come or gone.
func (p *Flow) Silent() time.Duration {
	return time.Since(p.begin) - time.Duration(p.used.Load())
}

// endIdle ends the flow once it has been silent for as long as idle, and returns when
// it has ended.
func (p *Flow) endIdle(idle time.Duration) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-timer.C:
		}
		left := idle - p.Silent()
		if left <= 0 {
			p.end(errIdle)
			return
		}
		timer.Reset(left)
	}
}

// LocalAddr implements [net.Conn].
func (p *Flow) LocalAddr() net.Addr { return p.stream.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (p *Flow) RemoteAddr() net.Addr { return p.stream.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (p *Flow) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (p *Flow) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = t
	close(p.moved)
	p.moved = make(chan struct{})
	return nil
}

// SetWriteDeadline implements [net.Conn], for datagrams that are too long for one QUIC
// packet. The others wait for the path only.
func (p *Flow) SetWriteDeadline(t time.Time) error { return p.stream.SetWriteDeadline(t) }

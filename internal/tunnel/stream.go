package tunnel

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Stream is one TCP connection's way through a tunnel. It is a [net.Conn] whose
// directions end one by one. Read and Write may be called concurrently with each
// other and with the rest, but not with themselves.
type Stream struct {
	quic  *quic.Stream
	conn  *quic.Conn
	ended atomic.Bool // our direction, by CloseWrite
}

var _ net.Conn = (*Stream)(nil)

// Read implements [io.Reader]. A stream that the other end cut off ends with
// [ErrReset], a closed connection with the error of its reason.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.quic.Read(b)
	if err != nil {
		err = translate(err)
	}
	return n, err
}

// Write implements [io.Writer]. It blocks while the other end does not read.
func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.quic.Write(b)
	if err != nil {
		err = translate(err)
	}
	return n, err
}

// CloseWrite ends the direction to the other end; what was written arrives.
func (s *Stream) CloseWrite() error {
	s.ended.Store(true)
	return translate(s.quic.Close())
}

// Close ends both directions: what was written arrives, what was not read is
// lost. It may be called more than once.
func (s *Stream) Close() error {
	s.quic.CancelRead(streamDone)
	return s.CloseWrite()
}

// Reset cuts off both directions, as a TCP reset does. Directions that have
// ended already are left alone.
func (s *Stream) Reset() {
	s.quic.CancelRead(streamReset)
	if !s.ended.Load() { // else QUIC would take back what is still on its way
		s.quic.CancelWrite(streamReset)
	}
}

// StopReading tells the other end that what it sends is of no use any more.
func (s *Stream) StopReading() { s.quic.CancelRead(streamReset) }

// TellsResets reports that reads never show a reset as a regular end.
func (s *Stream) TellsResets() bool { return true }

// LocalAddr implements [net.Conn].
func (s *Stream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (s *Stream) SetDeadline(t time.Time) error { return s.quic.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (s *Stream) SetReadDeadline(t time.Time) error { return s.quic.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.quic.SetWriteDeadline(t) }

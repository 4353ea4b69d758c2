package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern-sdp/postern/client"
)

// maxFrame bounds the bytes of one frame.
const maxFrame = 128 << 10

// farewell bounds the writing of why a connection has ended.
const farewell = time.Second

// local is the asking process's end of a connection: what is written to it goes in
// frames, and its end has a cause.
type local struct {
	*peer

	mu    sync.Mutex // guards what follows, and writes
	frame []byte     // in use by one write at a time
	torn  bool       // a frame was left unfinished
	ended bool
}

// Write implements [io.Writer].
func (l *local) Write(b []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 && err == nil {
		part := b[:min(len(b), maxFrame)]
		if err = l.writeLocked(part); err == nil {
			n, b = n+len(part), b[len(part):]
		}
	}
	return n, err
}

func (l *local) writeLocked(b []byte) error {
	if l.ended || l.torn {
		return net.ErrClosed
	}
	l.frame = append(binary.BigEndian.AppendUint32(l.frame[:0], uint32(len(b))), b...)
	return l.sendLocked(l.frame)
}

// sendLocked writes one frame, with its length.
func (l *local) sendLocked(frame []byte) error {
	written, err := l.UnixConn.Write(frame)
	l.torn = written != 0 && written != len(frame)
	return err
}

// CloseWrite shows a regular end of the service's bytes.
func (l *local) CloseWrite() error { return l.endLocked(nil) }

// end shows why the service's bytes have ended, if it was not shown yet.
func (l *local) end(cause error) {
	_ = l.SetDeadline(time.Now().Add(farewell))
	_ = l.endLocked(cause)
}

func (l *local) endLocked(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.torn {
		return nil
	}
	if _, err := l.UnixConn.Write(make([]byte, 4)); err != nil {
		l.torn = true
		return err
	}
	l.ended = true
	return send(l.UnixConn, answer{Error: faultOf(cause)})
}

// Reset wakes whoever reads or writes. Why is told with the end.
func (l *local) Reset() { _ = l.SetDeadline(time.Now()) }

// Close is Reset: the socket's owner closes it, when it has told the end.
func (l *local) Close() error {
	l.Reset()
	return nil
}

// TellsResets reports that the end of a local socket is a regular one, or the end
// of the process that asked.
func (l *local) TellsResets() bool { return true }

// conn is a connection to a service that another process carries.
type conn struct {
	*peer
	notify func(client.Event) // of the session; nil: nobody
	left   int                // bytes of the present frame
	end    error              // no more frames will come, and why
}

// Read implements [net.Conn]. An end that was none of the service's has its cause.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.peer.Read(b[:min(len(b), c.left)])
	c.left -= n
	if errors.Is(err, io.EOF) {
		err = errDied
	}
	return n, err
}

// next reads up to the bytes of the next frame. A read that timed out may be tried
// again.
func (c *conn) next() error {
	if c.end != nil {
		return c.end
	}
	head, err := c.r.Peek(4)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if err != nil {
		return c.over(err)
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame && size != noticeFrame {
		return c.over(errLine)
	}
	_, _ = c.r.Discard(4)
	if size == noticeFrame {
		if err := c.noticed(); err != nil {
			return c.over(err)
		}
		return c.next()
	}
	if size > 0 {
		c.left = int(size)
		return nil
	}
	var last answer
	if err := receive(c, maxLine, &last); err != nil {
		return c.over(err)
	}
	if c.end = io.EOF; last.Error != nil {
		c.end = last.Error.err()
	}
	return c.end
}

// over notes the end of a socket that was not told.
func (c *conn) over(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errDied
	}
	c.end = fmt.Errorf("read from the agent: %w", err)
	return c.end
}

// TellsResets reports that reads never show a reset as a regular end.
func (c *conn) TellsResets() bool { return true }

// StopReading does nothing: the service hears of it at the end.
func (c *conn) StopReading() {}

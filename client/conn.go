package client

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// stream is one connection to a service: of a tunnel's, or the service's own.
type stream interface {
	net.Conn
	CloseWrite() error
}

// Conn is a connection to a service. It is a [net.Conn] whose directions end one
// by one, with CloseWrite.
type Conn struct {
	stream
	release func()
	once    sync.Once
}

// also has more done when the connection is closed.
func (c *Conn) also(f func()) {
	release := c.release
	c.release = func() { release(); f() }
}

// Close implements [net.Conn].
func (c *Conn) Close() error {
	defer c.once.Do(c.release)
	return c.stream.Close()
}

// Reset cuts off both directions.
func (c *Conn) Reset() {
	switch s := c.stream.(type) {
	case interface{ Reset() }:
		s.Reset()
	case interface{ SetLinger(seconds int) error }:
		_ = s.SetLinger(0) // it is closed next
		c.stream.Close()
	}
}

// SyscallConn implements [syscall.Conn] for a service that is reached directly: a
// copy asks the kernel whether an end was a reset.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.stream.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// StopReading tells the service that what it sends is of no use any more. A service
// that is reached directly cannot be told.
func (c *Conn) StopReading() {
	if s, ok := c.stream.(interface{ StopReading() }); ok {
		s.StopReading()
	}
}

// TellsResets reports whether reads never show a reset as a regular end.
func (c *Conn) TellsResets() bool {
	s, ok := c.stream.(interface{ TellsResets() bool })
	return ok && s.TellsResets()
}

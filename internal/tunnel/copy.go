package tunnel

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Buffers of a copy start small, grow while reads fill them and shrink when they
// stay empty, so that a thousand idle streams cost little.
const (
	minBuffer   = 8 << 10   // bytes
	maxBuffer   = 128 << 10 // bytes
	shrinkAfter = 32        // reads in a row that a smaller buffer would have held
)

// Duplex is a connection with two directions that end one by one, such as
// *net.TCPConn, *net.UnixConn and *Stream. Close must wake up Read and Write.
// What wraps a *Stream passes on its Reset, StopReading and TellsResets as well.
type Duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Copy carries bytes between a and b in both directions until both have ended,
// and closes a and b. The end of one direction is passed on and leaves the other
// one open. When one direction breaks, the end it came from or went to is cut off
// with a reset, and its other direction is left to end by itself. When ctx ends,
// both are cut off. It returns how many bytes went from a to b and from b to a,
// and the first error.
func Copy(ctx context.Context, a, b Duplex) (toB, toA int64, err error) {
	var once sync.Once
	failed := func(e error) { once.Do(func() { err = e }) }
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		failed(cause(ctx))
		reset(a)
		reset(b)
	})
	endA, endB := &end{Duplex: a}, &end{Duplex: b}
	var back sync.WaitGroup
	back.Go(func() { toA = pump(endA, endB, failed) })
	toB = pump(endB, endA, failed)
	back.Wait()
	if !stop() {
		<-cut
	}
	a.Close()
	b.Close()
	return toB, toA, err
}

// end is one end of a copy, as its two pumps share it.
type end struct {
	Duplex
	broken atomic.Bool // a write failed
	ended  atomic.Bool // no further write will come
}

// pump carries one direction to its end and returns how many bytes went.
func pump(dst, src *end, failed func(error)) (n int64) {
	buffer, small := make([]byte, minBuffer), 0
	for {
		read, err := src.Read(buffer)
		if read > 0 {
			written, err := dst.Write(buffer[:read])
			n += int64(written)
			if err != nil {
				failed(err)
				dst.broken.Store(true)
				stopReading(src.Duplex)
				return n
			}
		}
		if errors.Is(err, io.EOF) && src.wasReset() {
			err = ErrReset
		}
		if errors.Is(err, io.EOF) {
			dst.ended.Store(true)
			// The other end may be gone already; its own direction tells.
			_ = dst.CloseWrite()
			return n
		}
		if err != nil {
			failed(err)
			reset(dst.Duplex)
			return n
		}
		buffer, small = resize(buffer, read, small)
	}
}

// wasReset reports whether the end of a TCP connection, as a read saw it, was a
// reset. The system tells of a reset once: when a write has heard of it, reads go
// on as if the connection had ended well, and what was lost would not be missed.
func (e *end) wasReset() bool {
	if d, ok := e.Duplex.(interface{ TellsResets() bool }); ok && d.TellsResets() || e.ended.Load() {
		return false
	}
	return e.broken.Load() || tcpGone(e.Duplex)
}

// resize returns the buffer for the next read, and how many reads in a row were small.
func resize(buffer []byte, read, small int) ([]byte, int) {
	switch {
	case read == len(buffer) && len(buffer) < maxBuffer:
		return make([]byte, 4*len(buffer)), 0
	case len(buffer) == minBuffer || read > len(buffer)/8:
		return buffer, 0
	case small+1 < shrinkAfter:
		return buffer, small + 1
	}
	return make([]byte, minBuffer), 0
}

// reset cuts d off. A TCP peer gets a reset, not an end that looks regular.
func reset(d Duplex) {
	switch d := d.(type) {
	case interface{ Reset() }:
		d.Reset()
	case interface{ SetLinger(seconds int) error }:
		_ = d.SetLinger(0) // no TCP any more: Close does it
		d.(io.Closer).Close()
	default:
		d.Close()
	}
}

// stopReading tells the end whose bytes nobody takes any more. A TCP connection
// cannot be told in one direction only: it stalls until the other one has ended.
func stopReading(d Duplex) {
	if s, ok := d.(interface{ StopReading() }); ok {
		s.StopReading()
	}
}

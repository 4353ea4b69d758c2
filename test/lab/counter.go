package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Pace of a counter that has one: 2 MiB a second.
const (
	countEvery = 4 * time.Millisecond
	countChunk = 8 << 10 // bytes, a multiple of 8
)

// pace is how fast a counter sends.
type pace int

const (
	steadily pace = iota
	flatOut       // as fast as the line allows
)

// counter is one end of a connection on which both ends count: each sends the
// numbers from 0 on, eight bytes each, and checks that the other one's come without
// a gap and without a repetition. It notes the longest silence.
type counter struct {
	conn net.Conn
	pace pace
	stop chan struct{} // ends the sending
	once sync.Once
	done chan struct{} // closed when both directions are over

	mu      sync.Mutex // guards what follows
	sent    int64      // bytes handed to the connection
	got     int64      // bytes that came, all of them the right ones
	since   time.Time  // from when on silences are noted
	last    time.Time  // when the last bytes came
	longest time.Duration
	err     error // of either direction
	ended   bool  // the other end's bytes came to an orderly end
}

// count begins to count on a connection, which it closes in the end.
func count(conn net.Conn, p pace) *counter {
	now := time.Now()
	c := &counter{conn: conn, pace: p, stop: make(chan struct{}), done: make(chan struct{}), since: now, last: now}
	var directions sync.WaitGroup
	directions.Go(c.send)
	directions.Go(c.receive)
	go func() { // ends with the connection
		directions.Wait()
		conn.Close()
		close(c.done)
	}()
	return c
}

func (c *counter) send() {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	due := tick.C
	if c.pace == flatOut {
		always := make(chan time.Time)
		close(always)
		due = always
	}
	chunk := make([]byte, countChunk)
	for next := uint64(0); ; {
		select {
		case <-c.stop:
			if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
				c.fail(half.CloseWrite())
			}
			return
		case <-due:
		}
		for i := 0; i < len(chunk); i += 8 {
			binary.BigEndian.PutUint64(chunk[i:], next)
			next++
		}
		n, err := c.conn.Write(chunk)
		c.mu.Lock()
		c.sent += int64(n)
		c.mu.Unlock()
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *counter) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.conn.Read(buf)
		wrong := c.came(buf[:n])
		if wrong != nil {
			c.fail(wrong)
			c.conn.Close() // ends the sending too
			return
		}
		if errors.Is(err, io.EOF) {
			c.mu.Lock()
			c.ended = true
			c.mu.Unlock()
			c.finish()
			return
		}
		if err != nil {
			c.fail(err)
			c.conn.Close()
			c.finish()
			return
		}
	}
}

// came checks bytes and notes the silence that they end.
func (c *counter) came(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, got := range b {
		at := c.got + int64(i)
		if want := byte(uint64(at/8) >> (56 - 8*(at%8))); got != want {
			return broken("byte %d is %#x, not %#x: something was lost or doubled", at, got, want)
		}
	}
	c.got += int64(len(b))
	c.longest = max(c.longest, c.silence())
	c.last = time.Now()
	return nil
}

// silence is for how long nothing has come, as far as it is noted. mu is held.
func (c *counter) silence() time.Duration {
	from := c.last
	if c.since.After(from) {
		from = c.since
	}
	return max(0, time.Since(from))
}

// mark forgets the silences so far.
func (c *counter) mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.longest = time.Now(), 0
}

// stall is the longest silence since mark, the present one included.
func (c *counter) stall() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.longest, c.silence())
}

func (c *counter) totals() (sent, got int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.got
}

func (c *counter) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && err != nil {
		c.err = err
	}
}

// Err is what went wrong so far.
func (c *counter) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// finish ends the sending; what was sent still arrives.
func (c *counter) finish() { c.once.Do(func() { close(c.stop) }) }

// settle ends a connection from this end on and checks that all that each end sent
// came to the other.
func (c *counter) settle(other *counter, limit time.Duration) error {
	c.finish() // the other end follows when it has read all
	timer := time.AfterFunc(limit, func() {
		c.fail(fmt.Errorf("the counting does not end within %s", limit))
		c.conn.Close()
		other.conn.Close()
	})
	defer timer.Stop()
	<-c.done
	<-other.done
	if err := errors.Join(c.Err(), other.Err()); err != nil {
		return err
	}
	here, back := c, other
	if here.sent != back.got || back.sent != here.got || !here.ended || !back.ended {
		return broken("%d bytes sent, %d came; %d sent back, %d came", here.sent, back.got, back.sent, here.got)
	}
	return nil
}

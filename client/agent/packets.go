package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/postern-sdp/postern/internal/tunnel"
)

// carryPackets carries datagrams between the local socket and a flow until either
// ends, and closes the flow. A datagram that the flow does not take is lost. It
// returns why the flow ended.
func carryPackets(ctx context.Context, l *local, flow net.Conn) error {
	stop := context.AfterFunc(ctx, func() { flow.Close(); l.Reset() })
	defer stop()
	var cause error // of the flow's end
	var back sync.WaitGroup
	back.Go(func() {
		defer l.Reset()
		buf := make([]byte, tunnel.MaxPacket)
		for {
			n, err := flow.Read(buf)
			if err != nil {
				cause = err
				return
			}
			if n == 0 {
				continue // a frame of no bytes is the end
			}
			if _, err := l.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	in := &conn{peer: l.peer}
	buf := make([]byte, tunnel.MaxPacket)
	for {
		n, err := in.packet(buf)
		if err != nil {
			break // the process is done, or was cut off
		}
		_, _ = flow.Write(buf[:n])
	}
	flow.Close()
	back.Wait()
	return cause
}

// packet reads one frame, cut off when b is too short for it.
func (c *conn) packet(b []byte) (int, error) {
	if err := c.next(); err != nil {
		return 0, err
	}
	n := 0
	var err error
	for c.left > 0 && err == nil {
		var read int
		if n < len(b) {
			read, err = c.Read(b[n:])
			n += read
			continue
		}
		read, err = c.r.Discard(c.left)
		c.left -= read
	}
	return n, err
}

// packetConn is a flow that another process has.
type packetConn struct {
	*conn
	out local
}

// Read implements [net.Conn]: one datagram.
func (c *packetConn) Read(b []byte) (int, error) { return c.packet(b) }

// Write implements [net.Conn]. An empty datagram is not sent.
func (c *packetConn) Write(b []byte) (int, error) {
	if len(b) > tunnel.MaxPacket {
		return 0, fmt.Errorf("a datagram of %d bytes: %w", len(b), syscall.EMSGSIZE)
	}
	return c.out.Write(b)
}

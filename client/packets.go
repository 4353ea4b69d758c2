package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
)

const (
	// peerQueue is how many datagrams of a local peer wait for its flow to open.
	peerQueue = 64
	// maxFaults bounds the errors in a row that one local socket's reader takes without
	// a pause.
	maxFaults  = 64
	faultPause = 100 * time.Millisecond
)

// DialPacket opens a UDP flow to the service: each Read and Write is one datagram.
func (a *Access) DialPacket(ctx context.Context) (net.Conn, error) {
	if a.Granted().Access().Transport != control.TransportUDP {
		return nil, fmt.Errorf("%w: %s", ErrNotUDP, a.Service)
	}
	for try := 1; ; try++ {
		conn, err := a.connect(ctx)
		if err != nil {
			return nil, err
		}
		if conn == nil {
			return a.dialDirectPacket()
		}
		flow, err := a.openFlow(ctx, conn)
		if err == nil {
			return flow, nil
		}
		if over := a.over(err); over != nil {
			return nil, over
		}
		if ctx.Err() != nil || try == 2 || errors.Is(err, tunnel.ErrUnreachable) {
			return nil, err
		}
		if !errors.Is(err, tunnel.ErrBusy) {
			a.drop(conn, err)
		} else if !a.flows.evict() {
			return nil, err
		}
	}
}

// openFlow opens a flow in the tunnel. An older one may end for it.
func (a *Access) openFlow(ctx context.Context, conn *tunnel.Conn) (net.Conn, error) {
	c := &packetConn{usage: newUsage()}
	c.release = func() { a.flows.remove(c); a.use(-1) }
	a.use(1)
	a.flows.reserve(c, maxFlows)
	flow, err := conn.OpenFlow(ctx)
	if err != nil {
		c.release()
		return nil, err
	}
	c.Conn = flow
	a.flows.opened(c)
	return c, nil
}

// ListenPacket is [Listen] for a UDP service.
func ListenPacket(ctx context.Context, address string, anyone bool) (net.PacketConn, error) {
	if err := checkLocal(address, anyone); err != nil {
		return nil, err
	}
	var c net.ListenConfig
	l, err := c.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// ServePackets carries the datagrams that l receives to the service, each local
// peer's in a flow of its own, until ctx ends or the Access is over. It closes l, and
// returns when all flows are done: nil at the end of ctx, else why.
func (a *Access) ServePackets(ctx context.Context, l net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(a.life, cancel)
	defer stop()
	err := ForwardPackets(ctx, l, a.DialPacket, func(err error) {
		if a.Err() == nil {
			a.Notify(Event{Kind: EventRefused, Deadline: a.Granted().Deadline, Err: err})
		}
	})
	if a.Err() != nil {
		return a.Err()
	}
	return err
}

// ForwardPackets is [Forward] for datagrams: each local peer gets a flow that dial
// makes. Datagrams of more peers than may be at once are lost.
func ForwardPackets(ctx context.Context, l net.PacketConn, dial func(context.Context) (net.Conn, error),
	failed func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer closeWith(ctx, l)()
	p := &peers{dial: dial, failed: failed, local: l, open: make(map[netip.AddrPort]chan []byte)}
	defer p.all.Wait()
	defer cancel()
	buf := make([]byte, tunnel.MaxPacket+1)
	for faults := 0; ; {
		n, from, err := l.ReadFrom(buf)
		if err != nil {
			// A peer that is gone shows here on some systems, and so does a lack of memory.
			if faults++; ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				if faults > maxFaults {
					rest(ctx, faultPause)
				}
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read local datagrams: %w", err)
		}
		faults = 0
		if udp, ok := from.(*net.UDPAddr); ok {
			p.take(ctx, udp.AddrPort(), append([]byte(nil), buf[:n]...))
		}
	}
}

// peers are the local programs that speak to a service.
type peers struct {
	dial   func(context.Context) (net.Conn, error)
	failed func(error)
	local  net.PacketConn
	all    sync.WaitGroup

	mu   sync.Mutex // guards open
	open map[netip.AddrPort]chan []byte
}

// take passes a datagram on, to a new flow if its sender has none. What finds no
// room is lost.
func (p *peers) take(ctx context.Context, from netip.AddrPort, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue, known := p.open[from]
	if !known {
		if len(p.open) >= maxLocal {
			return
		}
		queue = make(chan []byte, peerQueue)
		p.open[from] = queue
		p.all.Go(func() { p.serve(ctx, from, queue) })
	}
	select {
	case queue <- b:
	default:
	}
}

func (p *peers) serve(ctx context.Context, from netip.AddrPort, queue <-chan []byte) {
	defer func() {
		p.mu.Lock()
		delete(p.open, from)
		p.mu.Unlock()
	}()
	flow, err := p.dial(ctx)
	if err != nil {
		if ctx.Err() == nil && !isHeld(err) {
			p.failed(err)
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { flow.Close() })
	defer stop()
	var back sync.WaitGroup
	defer back.Wait()
	defer flow.Close()
	heard := make(chan struct{}, 1)
	back.Go(func() {
		defer cancel()
		to := net.UDPAddrFromAddrPort(from)
		buf := make([]byte, tunnel.MaxPacket+1)
		for {
			n, err := flow.Read(buf)
			if err != nil {
				return
			}
			_, _ = p.local.WriteTo(buf[:n], to) // lost, as datagrams may be
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	})
	used := newUsage()
	idle := time.NewTimer(used.left())
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			return
		case <-heard:
			used.heard()
		case b := <-queue:
			used.sent()
			if _, err := flow.Write(b); err != nil && ctx.Err() != nil {
				return
			}
		}
		idle.Reset(used.left())
	}
}

package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/postern-sdp/postern/internal/accept"
	"github.com/postern-sdp/postern/internal/tunnel"
)

// maxLocal bounds the connections that one listener serves at once.
const maxLocal = 512

// Listen opens a local TCP listener, on the loopback interface unless anyone is
// true: [ErrPublicListen]. A port of 0 takes a free one.
func Listen(ctx context.Context, address string, anyone bool) (net.Listener, error) {
	if err := checkLocal(address, anyone); err != nil {
		return nil, err
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// checkLocal refuses an address that others could reach, unless anyone may.
func checkLocal(address string, anyone bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if ip, err := netip.ParseAddr(host); !anyone && host != "localhost" &&
		(err != nil || !ip.Unmap().IsLoopback()) {
		return fmt.Errorf("listen on %s: %w", address, ErrPublicListen)
	}
	return nil
}

// Serve carries every connection that l accepts to the service, until ctx ends or
// the Access is over. It closes l, and returns when all connections are done: nil
// at the end of ctx, else why.
func (a *Access) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(a.life, cancel)
	defer stop()
	err := Forward(ctx, l, a.Dial, func(err error) {
		if a.Err() == nil {
			a.Notify(Event{Kind: EventRefused, Deadline: a.Granted().Deadline, Err: err})
		}
	})
	if a.Err() != nil {
		return a.Err()
	}
	return err
}

// Forward carries every connection that l accepts to where dial connects to, until
// ctx ends. It closes l, and returns when all connections are done: nil at the end of
// ctx, else why. A connection that dial cannot make shows as a reset, and failed is
// told, once while the same answer is kept; it may be called concurrently.
func Forward(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error),
	failed func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer closeWith(ctx, l)()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	places := make(chan struct{}, maxLocal)
	for {
		conn, err := accept.Next(ctx, l, failed)
		if ctx.Err() != nil && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		connections.Go(func() {
			defer func() { <-places }()
			carry(ctx, conn, dial, failed)
		})
	}
}

// closeWith closes c when ctx ends. What it returns waits for that, which has to be
// under way: who was woken from a socket by its closing may be ahead of the closing.
func closeWith(ctx context.Context, c io.Closer) (closed func()) {
	done := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(done)
		c.Close()
	})
	return func() { <-done }
}

// carry serves one local connection. An unusable service shows as a reset.
func carry(ctx context.Context, conn net.Conn, dial func(context.Context) (net.Conn, error), failed func(error)) {
	service, err := dial(ctx)
	if err != nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it is closed next
		}
		conn.Close()
		if ctx.Err() == nil && !isHeld(err) {
			failed(err)
		}
		return
	}
	local, ok := conn.(Duplex)
	remote, both := service.(Duplex)
	if !ok || !both {
		conn.Close()
		service.Close()
		return
	}
	_ = Copy(ctx, local, remote) // how a connection ends is its ends' affair
}

// Duplex is a connection whose directions end one by one. Close must wake up a
// blocked Read or Write.
type Duplex = tunnel.Duplex

// Copy carries bytes between a and b in both directions until both have ended, and
// closes them. A connection that is cut off cuts the other one off. When ctx ends,
// both are.
func Copy(ctx context.Context, a, b Duplex) error {
	_, _, err := tunnel.Copy(ctx, a, b)
	return err
}

// Pipe opens a connection to the service and carries bytes between it and local,
// until both directions have ended. Once there is one, it closes local as well.
func (a *Access) Pipe(ctx context.Context, local Duplex) error {
	stream, release, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer release()
	_, _, err = tunnel.Copy(ctx, local, stream)
	return err
}

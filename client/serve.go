package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

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
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	stopLife := context.AfterFunc(a.life, func() { l.Close() })
	defer stopLife()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	places := make(chan struct{}, maxLocal)
	for {
		conn, err := l.Accept()
		if err != nil {
			l.Close()
			switch {
			case a.Err() != nil:
				return a.Err()
			case ctx.Err() != nil:
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		connections.Go(func() {
			defer func() { <-places }()
			a.carry(ctx, conn)
		})
	}
}

// carry serves one local connection. An unusable service shows as a reset.
func (a *Access) carry(ctx context.Context, conn net.Conn) {
	local, ok := conn.(tunnel.Duplex)
	if !ok {
		conn.Close()
		return
	}
	err := a.Pipe(ctx, local)
	if err == nil || ctx.Err() != nil || a.Err() != nil {
		return
	}
	if refused := new(notOpened); errors.As(err, &refused) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it is closed next
		}
		conn.Close()
		a.Notify(Event{Kind: EventRefused, Deadline: a.Granted().Deadline, Err: err})
	}
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

// notOpened marks an error of before the first byte.
type notOpened struct{ error }

// Unwrap returns the cause.
func (e *notOpened) Unwrap() error { return e.error }

// Pipe opens a connection to the service and carries bytes between it and local,
// until both directions have ended. Once there is one, it closes local as well.
func (a *Access) Pipe(ctx context.Context, local Duplex) error {
	stream, release, err := a.open(ctx)
	if err != nil {
		return &notOpened{err}
	}
	defer release()
	_, _, err = tunnel.Copy(ctx, local, stream)
	return err
}

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// directPort is that of an endless source which Cut reads from without a tunnel.
const directPort = 7002

// PrepareCut offers the services that Cut reads from.
func (l *Lab) PrepareCut(ctx context.Context) error {
	if err := l.Serve("host", fmt.Sprintf("0.0.0.0:%d", directPort), pour); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--mode", "direct", "--target", fmt.Sprintf(":%d", directPort), "bulk-direct"},
		{"grant", "add", "--for", "1h", "alice", "bulk-direct"},
	} {
		if _, err := l.Admin(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// RevokeDirect starts a transfer from the direct service, revokes its session in the
// middle, and returns how long after the start of the command the last byte came.
func (l *Lab) RevokeDirect(ctx context.Context) (time.Duration, error) {
	session, _, conn, err := l.pull(ctx, "1h")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	last := drained(conn)
	ordered := time.Now()
	if _, err := l.Admin(ctx, "session", "revoke", session); err != nil {
		return 0, err
	}
	return (<-last).Sub(ordered), nil
}

// ExpireDirect lets the session of a transfer from the direct service end, with the
// agent killed, and returns how long after the deadline the last byte came.
func (l *Lab) ExpireDirect(ctx context.Context, length time.Duration) (time.Duration, error) {
	_, deadline, conn, err := l.pull(ctx, length.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	last := drained(conn)
	if err := l.host.Kill(); err != nil {
		return 0, err
	}
	late := (<-last).Sub(deadline)
	return late, l.StartHost(ctx)
}

// ExpireTunnel lets the session of a transfer through a tunnel end, and returns how
// long after its length the last byte came. The knock takes some of that.
func (l *Lab) ExpireTunnel(ctx context.Context, length time.Duration) (late time.Duration, err error) {
	begun := time.Now()
	forward, err := l.Connect(ctx, "client", "bulk", "--for", length.String(), "--no-renew")
	if err != nil {
		return 0, err
	}
	granted := time.Since(begun)
	defer func() { err = errors.Join(err, forward.Kill()) }()
	conn, err := forward.Dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return (<-drained(conn)).Sub(begun.Add(granted + length)), nil
}

// pull knocks for the direct service and begins to read from it.
func (l *Lab) pull(ctx context.Context, length string) (session string, deadline time.Time, conn net.Conn, err error) {
	out, err := l.postern(ctx, "client", nil, "knock", "--json", "--for", length, "bulk-direct")
	if err != nil {
		return "", time.Time{}, nil, err
	}
	var granted struct {
		Session  string    `json:"session"`
		Deadline time.Time `json:"deadline"`
	}
	if err := json.Unmarshal([]byte(out), &granted); err != nil {
		return "", time.Time{}, nil, fmt.Errorf("knock printed no JSON: %w", err)
	}
	err = l.in("client", func() error {
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err = d.DialContext(ctx, "tcp4", netip.AddrPortFrom(HostV4, directPort).String())
		return err
	})
	if err != nil {
		return "", time.Time{}, nil, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		conn.Close()
		return "", time.Time{}, nil, fmt.Errorf("the transfer does not start: %w", err)
	}
	return granted.Session, granted.Deadline, conn, nil
}

// drained reads a connection until nothing more comes, and then tells when the last
// of it did.
func drained(conn net.Conn) <-chan time.Time {
	last := make(chan time.Time, 1)
	go func() { // ends when the connection is cut
		_, at := drain(conn, 2*time.Second)
		last <- at
	}()
	return last
}

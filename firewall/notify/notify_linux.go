package notify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// rest is the pause between two looks at what has come: a program that changes
	// rules without end costs that many wake-ups and no more.
	rest = 20 * time.Millisecond
	// receiveBuffer holds what comes meanwhile. It is a limit, not an allocation.
	receiveBuffer = 4 << 20
	// readSize is more than the kernel puts into one datagram.
	readSize = 1 << 16
	// batch bounds the datagrams of one look.
	batch = 4096
)

// Change tells that a table, or a chain, was made or altered, or that one of those
// or a rule was deleted. What else is told, new rules and elements of sets above
// all, takes nothing away and is passed over.
type Change struct {
	Family byte   // of the table, as NFPROTO_INET
	Table  string // its name
	Chain  string // empty for a change of the table
	// Deleted is false for what was made or altered.
	Deleted bool
	// By is the netlink port of the connection that made the change.
	By uint32
}

// Listener is a socket for notifications.
type Listener struct{ conn *netlink.Conn }

// Listen opens a socket in the network namespace of an open file descriptor, 0 for
// that of the calling thread. It hears nothing before Run.
func Listen(netns int) (*Listener, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("listen for changes of rules: %w", err)
	}
	if err := conn.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("enlarge receive buffer: %w", err), conn.Close())
	}
	return &Listener{conn}, nil
}

// Close closes the socket; Run, which should have ended, returns an error.
func (l *Listener) Close() error { return l.conn.Close() }

// Run calls changed after changes that concern the caller, once for all that came
// together, until ctx ends, which is no error. When the kernel had to drop
// notifications, they count as such. Run may be called once at a time.
func (l *Listener) Run(ctx context.Context, concerns func(Change) bool, changed func()) error {
	if err := l.conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("listen for changes of rules: %w", err)
	}
	defer l.conn.LeaveGroup(unix.NFNLGRP_NFTABLES)
	if err := l.conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("listen for changes of rules: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	buffer := make([]byte, readSize)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		concerned, err := l.read(buffer, concerns)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read changes of rules: %w", err)
		case concerned:
			changed()
		}
		pause.Reset(rest)
	}
}

// read waits for a datagram, and takes all that are there.
func (l *Listener) read(buffer []byte, concerns func(Change) bool) (concerned bool, err error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var fault error
	err = raw.Read(func(fd uintptr) bool {
		for n := range batch {
			size, _, err := unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch {
			case err == unix.EAGAIN:
				return n > 0
			case err == unix.EINTR:
			case err == unix.ENOBUFS, size > len(buffer): // something was lost
				concerned = true
			case err != nil:
				fault = err
				return true
			case concerning(buffer[:size], concerns):
				concerned = true
			}
		}
		return true
	})
	return concerned, errors.Join(err, fault)
}

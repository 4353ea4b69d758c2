package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
)

const (
	// directTurn bounds the first attempts to connect to a service's own port. Silence there
	// means that the host has not let us in yet, or at another address, or is far away.
	directTurn  = 250 * time.Millisecond
	longestTurn = 2 * time.Second
	// directLimit bounds all attempts.
	directLimit = 8 * time.Second
	// cutNotice is about how long a connection whose opening was shut goes on to
	// wait for an answer.
	cutNotice = 10 * time.Second
)

// Access says how the service is reached.
func (g Granted) Access() control.Access {
	if g.grant == nil {
		return control.Access{}.Resolved()
	}
	return control.AccessFromFlags(g.grant.Flags)
}

func (g Granted) direct() bool { return g.grant != nil && g.grant.Flags&spa.FlagDirect != 0 }

// exact reports whether a direct service is open to the host knock's own port only.
func (g Granted) exact() bool { return g.direct() && g.Access().Binding == control.BindExact }

// addresses are the granted ones, as they are to be tried.
func (g Granted) addresses() []netip.AddrPort {
	return control.SameFamilyFirst(g.grant.Addresses, g.by)
}

// hostKnock tells the host of a direct service where we are, as it sees it: at an
// address and port of socket's.
func (c *Client) hostKnock(g Granted, socket *net.UDPConn, at netip.AddrPort) {
	datagram := spa.SealHostKnock(g.grant.Knock, g.Host, g.Session, c.hostKnockTime())
	// What cannot be sent is as good as lost: connecting tells.
	_, _ = socket.WriteToUDPAddrPort(datagram, netip.AddrPortFrom(at.Addr(), g.grant.KnockPort))
}

// announce sends a host knock from any port: the address is what counts.
func (c *Client) announce(g Granted) error {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return fmt.Errorf("open a socket for the host knock: %w", err)
	}
	defer socket.Close()
	for _, at := range g.grant.Addresses {
		c.hostKnock(g, socket, at)
	}
	return nil
}

func (a *Access) setDirect(works bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.works = works
}

// alone takes the one opening that a direct service with binding exact has. A second
// connection's host knock would move it, and cut the first one off.
func (a *Access) alone() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.alone {
		return fmt.Errorf("connect to %s: %w", a.Service, ErrOneAtATime)
	}
	a.mu.alone = true
	return nil
}

func (a *Access) notAlone() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.alone = false
}

// openDirect connects to the service itself. When nothing answers, the next call
// asks the controller anew: we may be somewhere else by now.
func (a *Access) openDirect(ctx context.Context) (stream, func(), error) {
	g := a.Granted()
	release := func() { a.use(-1) }
	if g.exact() {
		if err := a.alone(); err != nil {
			return nil, nil, err
		}
		release = func() { a.notAlone(); a.use(-1) }
	}
	a.use(1)
	conn, err := a.client.dialService(ctx, g)
	if err != nil {
		release()
		a.setDirect(false)
		return nil, nil, fmt.Errorf("connect to %s at %v: %w", a.Service, g.Addresses(), err)
	}
	return conn, release, nil
}

// dialService knocks at the host and connects to the service, at the first of its
// addresses that answers. A host has one opening for a session, where the last host
// knock came from: so addresses take turns, which get longer, for slow paths.
func (c *Client) dialService(ctx context.Context, g Granted) (*net.TCPConn, error) {
	socket, err := knockSocket(g.exact())
	if err != nil {
		return nil, fmt.Errorf("open a socket for the host knock: %w", err)
	}
	defer socket.Close()
	ctx, cancel := context.WithTimeout(ctx, directLimit)
	defer cancel()
	d := net.Dialer{
		Timeout:         directTurn,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: cutNotice / 2, Interval: cutNotice / 4, Count: 2},
		Control:         noticeCuts,
	}
	if g.exact() {
		d.LocalAddr = &net.TCPAddr{Port: port(socket)}
	}
	addresses := g.addresses()
	faults := make([]error, len(addresses))
	for {
		tried := false
		for i, at := range addresses {
			if faults[i] != nil {
				continue
			}
			tried = true
			c.hostKnock(g, socket, at)
			conn, err := d.DialContext(ctx, "tcp", at.String())
			if err == nil {
				return conn.(*net.TCPConn), nil
			}
			if timeout := net.Error(nil); ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() {
				faults[i] = err
			}
		}
		if !tried {
			return nil, errors.Join(faults...)
		}
		d.Timeout = min(2*d.Timeout, longestTurn)
	}
}

// knockSocket is a socket for host knocks. For an exact opening the service's flow has
// to come from a port of the same number, for a NAT to show the same too.
func knockSocket(exact bool) (*net.UDPConn, error) {
	const tries = 8
	for try := 1; ; try++ {
		socket, err := net.ListenUDP("udp", nil)
		if err != nil || !exact {
			return socket, err
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port(socket)})
		if err == nil {
			l.Close()
			return socket, nil
		}
		socket.Close()
		if try == tries {
			return nil, err
		}
	}
}

func port(socket *net.UDPConn) int { return socket.LocalAddr().(*net.UDPAddr).Port }

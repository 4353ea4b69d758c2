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
	// directTry bounds one attempt to connect to a service's own port. Silence there
	// means that the host has not let us in, or sees us at another address.
	directTry = time.Second
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

// hostKnock tells the host of a direct service where we are, as it sees it. It is sent
// from an address and port of socket's.
func (c *Client) hostKnock(g Granted, socket *net.UDPConn) {
	datagram := spa.SealHostKnock(g.grant.Knock, g.Host, g.Session, c.now())
	for _, a := range g.grant.Addresses {
		// What cannot be sent is as good as lost: connecting tells.
		_, _ = socket.WriteToUDPAddrPort(datagram, netip.AddrPortFrom(a.Addr(), g.grant.KnockPort))
	}
}

// announce sends a host knock from any port: the address is what counts.
func (c *Client) announce(g Granted) error {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return fmt.Errorf("open a socket for the host knock: %w", err)
	}
	defer socket.Close()
	c.hostKnock(g, socket)
	return nil
}

func (a *Access) setDirect(works bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.works = works
}

// openDirect connects to the service itself. When nothing answers, the next call
// asks the controller anew: we may be somewhere else by now.
func (a *Access) openDirect(ctx context.Context) (stream, func(), error) {
	g := a.Granted()
	ctx, cancel := context.WithTimeout(ctx, directLimit)
	defer cancel()
	for {
		conn, err := a.client.dialService(ctx, g)
		if err == nil {
			a.use(1)
			return conn, func() { a.use(-1) }, nil
		}
		var timeout net.Error
		if ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			a.setDirect(false)
			return nil, nil, fmt.Errorf("connect to %s at %v: %w", a.Service, g.Addresses(), err)
		}
	}
}

// dialService knocks at the host and connects to the service, at the first of its
// addresses that answers.
func (c *Client) dialService(ctx context.Context, g Granted) (*net.TCPConn, error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket for the host knock: %w", err)
	}
	defer socket.Close()
	d := net.Dialer{
		Timeout:         directTry,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: cutNotice / 2, Interval: cutNotice / 4, Count: 2},
		Control:         noticeCuts,
	}
	if g.Access().Binding == control.BindExact {
		// The service's flow comes from the port that knocked.
		d.LocalAddr = &net.TCPAddr{Port: socket.LocalAddr().(*net.UDPAddr).Port}
	}
	c.hostKnock(g, socket)
	var faults []error
	for _, a := range g.grant.Addresses {
		conn, err := d.DialContext(ctx, "tcp", a.String())
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

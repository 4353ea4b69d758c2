package controller

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa"
)

// answer decides a valid knock. It may wait for a host, never for the disk or
// anything else.
func (c *Controller) answer(ctx context.Context, a accepted) spa.Reply {
	switch a.Request.Kind {
	case spa.KindAccess:
		return c.answerAccess(ctx, a)
	case spa.KindControl:
		return c.answerControl(ctx, a)
	case spa.KindClose:
		return c.answerClose(ctx, a)
	}
	return denial(errDenied)
}

func (c *Controller) answerAccess(ctx context.Context, a accepted) spa.Reply {
	source := c.source(a)
	o, err := c.sessions.open(ctx, ask{
		device: a.Identity, service: a.Request.Service, source: source,
		duration: a.Request.Duration, renew: a.Request.Session,
	})
	if err != nil {
		return c.deny(a, err)
	}
	pin, ok := c.hostPin(o.host)
	if !ok { // removed since; its sessions are being ended
		return c.deny(a, errOffline)
	}
	c.counters.granted.Add(1)
	c.log.Info("access granted", logkeys.Session, o.session, logkeys.Device, a.Identity, logkeys.User,
		o.user, logkeys.Service, a.Request.Service, logkeys.Host, o.host, logkeys.Source, source,
		logkeys.Deadline, o.deadline)
	grant := &spa.Grant{
		Session: o.session, Deadline: o.deadline, Knock: o.knock, Pin: pin, Host: o.host,
		Addresses: o.addresses, Flags: o.access.Flags(),
	}
	if o.access.Mode == control.ModeDirect {
		grant.Addresses, grant.KnockPort = o.direct()
	}
	return spa.Reply{Grant: grant}
}

// direct returns the service's own addresses, and the port of the tunnel's end.
func (o opened) direct() ([]netip.AddrPort, uint16) {
	_, text, _ := net.SplitHostPort(o.target)
	port, _ := strconv.ParseUint(text, 10, 16) // checked when the service was made
	own := make([]netip.AddrPort, 0, len(o.addresses))
	for _, a := range o.addresses {
		own = append(own, netip.AddrPortFrom(a.Addr(), uint16(port)))
	}
	return own, o.addresses[0].Port()
}

// answerControl opens the control port's door to an enrolled identity, or to
// the holder of a join token.
func (c *Controller) answerControl(ctx context.Context, a accepted) spa.Reply {
	if !c.known(a.Identity, time.Now()) {
		return c.deny(a, errDenied)
	}
	p, err := c.door.admit(ctx, a.Identity, c.source(a), time.Now())
	if err != nil {
		return c.deny(a, err)
	}
	return spa.Reply{Grant: &spa.Grant{
		Session: p.session, Deadline: p.deadline, Knock: p.knock, Pin: c.certificate.pin(), Host: c.id,
		Addresses: c.controlAddresses(a.destination),
	}}
}

func (c *Controller) answerClose(ctx context.Context, a accepted) spa.Reply {
	if _, err := c.sessions.close(ctx, a.Request.Session, a.Identity, reasonOwner); err != nil {
		return c.deny(a, err)
	}
	return spa.Reply{Denial: &spa.Denial{Code: spa.CodeClosed, Text: "the session is ended"}}
}

// source is the address that a door is opened for: the one the packet came
// from. A claimed one counts only where the configuration says so.
func (c *Controller) source(a accepted) netip.Addr {
	claimed := a.Request.Claimed.Unmap()
	if c.config.Knock.AcceptClaimed && claimed.IsValid() && !claimed.IsUnspecified() &&
		!claimed.IsLoopback() && !claimed.IsMulticast() && claimed.Zone() == "" {
		return claimed
	}
	return a.source.Addr().Unmap().WithZone("")
}

// controlAddresses are those to reach the control port at: the configured ones,
// else the one that the knock was sent to.
func (c *Controller) controlAddresses(knocked netip.AddrPort) []netip.AddrPort {
	if len(c.advertise) > 0 {
		return c.advertise
	}
	return []netip.AddrPort{netip.AddrPortFrom(knocked.Addr().Unmap().WithZone(""), c.door.port)}
}

func (c *Controller) deny(a accepted, err error) spa.Reply {
	c.counters.denied.Add(1)
	r := denial(err)
	c.log.Info("knock denied", logkeys.Identity, a.Identity, logkeys.Service,
		printable(a.Request.Service), logkeys.Source, a.source, logkeys.Code, int(r.Denial.Code),
		logkeys.Reason, err.Error())
	return r
}

// denial says to the sender of a valid knock what it may know of err.
func denial(err error) spa.Reply {
	d := &spa.Denial{Code: spa.CodeInternal, Text: "the controller could not do it; its log knows why"}
	for _, known := range []struct {
		err  error
		code spa.Code
	}{
		{errDenied, spa.CodeNotGranted},
		{errOffline, spa.CodeHostOffline},
		{errHostSilent, spa.CodeHostOffline},
		{errHostRefused, spa.CodeHostOffline},
		{errBusy, spa.CodeBusy},
		{errUnknownSession, spa.CodeUnknownSession},
	} {
		if errors.Is(err, known.err) {
			d = &spa.Denial{Code: known.code, Text: known.err.Error()}
			break
		}
	}
	return spa.Reply{Denial: d}
}

package host

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
)

// wideTTL is how long an opening by address alone lives at most. It only bridges
// the time between the controller's order and the host knock.
const wideTTL = 30 * time.Second

// session is one granted access on this host.
//
//	order ──> wide ──host knock──> bound ──host knock──> bound (elsewhere)
//	            │                    │
//	            └─────────┬──────────┘
//	   deadline, close order, not in a Sync, fault of the firewall
//	                      v
//	                    ended
//
// wide: the address in the order may send host knocks, for 30 s; the tunnel's
// socket hands QUIC nothing. bound: one address and port, which the tunnel's
// socket admits. An order for a session that lives renews it in either state.
// Its fields are guarded by the lock of [sessions].
type session struct {
	terms
	bound   netip.AddrPort // where the newest host knock came from
	tunnels int            // connections
	// bytes went through, both directions, counted at the service's side. It may be
	// read and written without the lock.
	bytes atomic.Uint64
}

// terms are what an order says.
type terms struct {
	order control.Session // as last ordered, its source in plain form, its access resolved
	port  uint16          // of the target
	until time.Duration   // deadline on the boot clock
	wide  time.Duration   // until when the order's source has a wide opening
}

func newSession(t terms) *session { return &session{terms: t} }

// endReason says why a session, and with it its tunnels, ends. It is told to the
// client.
type endReason struct {
	code tunnel.Reason
	text string
}

// The reasons that the agent itself gives.
func expired() endReason { return endReason{tunnel.ReasonExpired, "expired"} }
func unlisted() endReason {
	return endReason{tunnel.ReasonRevoked, "the controller no longer has it"}
}
func faulty() endReason {
	return endReason{tunnel.ReasonClosed, "the host's firewall could not be changed"}
}

// ordered is the reason that a close order gives.
func ordered(text string) endReason {
	switch text {
	case "expired":
		return expired()
	case "revoked", "":
		return endReason{tunnel.ReasonRevoked, "revoked"}
	}
	return endReason{tunnel.ReasonClosed, text}
}

// newTerms reads an order that arrived at now.
func newTerms(o control.Session, now time.Duration) (terms, error) {
	o.Source = o.Source.Unmap().WithZone("")
	if o.ID.IsZero() || o.Device.IsZero() || o.Knock.IsZero() {
		return terms{}, fmt.Errorf("%w: it names no session, device or secret", errOrder)
	}
	if err := o.Access.Validate(); err != nil {
		return terms{}, fmt.Errorf("%w: %w", errOrder, err)
	}
	o.Access = o.Access.Resolved()
	_, text, err := net.SplitHostPort(o.Target)
	port, parseErr := strconv.ParseUint(text, 10, 16)
	if err != nil || parseErr != nil || port == 0 {
		return terms{}, fmt.Errorf("%w: target %q is not host:port", errOrder, o.Target)
	}
	if o.TTL <= 0 {
		return terms{}, errExpired
	}
	until := now + time.Duration(o.TTL)
	return terms{order: o, port: uint16(port), until: until, wide: min(until, now+wideTTL)}, nil
}

// renew returns the terms of an order for a session that lives. The order's
// source gets a wide opening only when it is not where the session is bound: a
// client that moved, whose host knocks capture may not see, comes in by it.
func (s *session) renew(next terms) (terms, error) {
	if next.order.Device != s.order.Device || next.order.Service != s.order.Service ||
		next.order.Access != s.order.Access {
		return terms{}, errMismatch
	}
	if s.bound.IsValid() && s.bound.Addr() == next.order.Source {
		next.wide = 0
	}
	return next, nil
}

// claims are the openings that a session under t has, when it is bound to that
// source or to none; tunnel is the port of the tunnel's end.
//
//	binding   not bound yet                        bound
//	exact     –                                    the source's address and port
//	address   every port of the order's address    every port of the source's address
//
// They are openings of the tunnel's port or, for a direct session, of the service's.
// Besides them, host knocks from the order's address reach the socket for a while.
func (t terms) claims(bound netip.AddrPort, tunnel uint16) []claim {
	at := firewall.Pinhole{Protocol: firewall.UDP, Port: tunnel}
	if t.direct() {
		at.Port = t.port
		if t.order.Transport == control.TransportTCP {
			at.Protocol = firewall.TCP
		}
	}
	at.Source, at.SourcePort = bound.Addr(), bound.Port()
	if t.order.Binding == control.BindAddress {
		at.SourcePort = 0
		if !bound.IsValid() {
			at.Source = t.order.Source
		}
	}
	var claims []claim
	if at.Validate() == nil {
		claims = append(claims, claim{at, t.until})
	}
	wide := opening(t.order.Source, 0, tunnel)
	if t.wide > 0 && wide.Validate() == nil && wide != at {
		claims = append(claims, claim{wide, t.wide})
	}
	return claims
}

// direct reports whether the client speaks to the service itself.
func (t terms) direct() bool { return t.order.Mode == control.ModeDirect }

func opening(source netip.Addr, sourcePort, port uint16) firewall.Pinhole {
	return firewall.Pinhole{
		Protocol: firewall.UDP, Source: source, SourcePort: sourcePort, Port: port,
	}
}

// record is a session as the state file keeps it. Times are on the boot clock.
type record struct {
	Session control.Session `json:"session"`
	Until   time.Duration   `json:"until"`
	Wide    time.Duration   `json:"wide,omitempty"`
	Bound   netip.AddrPort  `json:"bound"`
}

func (s *session) record() record {
	return record{Session: s.order, Until: s.until, Wide: s.wide, Bound: s.bound}
}

// session returns the session of a record, with its deadline as it was.
func (r record) session(now time.Duration) (*session, error) {
	r.Session.TTL = control.Duration(r.Until - now)
	t, err := newTerms(r.Session, now)
	if err != nil {
		return nil, err
	}
	t.until, t.wide = r.Until, min(r.Wide, r.Until)
	s := newSession(t)
	s.bound = r.Bound
	return s, nil
}

package firewall

import (
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Protocol is an IP protocol number that a pinhole can be opened for.
type Protocol uint8

// The protocols of RFC 790 that carry ports.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String returns "tcp", "udp" or the number.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Pinhole lets packets from one source reach one local port until its time is up.
// Two pinholes that differ only in TTL are the same opening.
type Pinhole struct {
	Protocol Protocol
	Source   netip.Addr // IPv4 or IPv6, never mapped, without zone
	// SourcePort is the exact source port, or 0 for any.
	SourcePort uint16
	Port       uint16 // local destination port, not 0
	// TTL is the time left, kept by the kernel. Resolution: one tick of its
	// timer, 1 to 10 ms; of IP sets (package iptables) whole seconds, rounded down,
	// but one at least. What no timer ends is listed with [Forever].
	TTL time.Duration
}

// Opening returns p without its TTL: the comparable identity of the opening.
func (p Pinhole) Opening() Pinhole {
	p.TTL = 0
	return p
}

// Validate reports what makes p impossible to install.
func (p Pinhole) Validate() error {
	switch {
	case p.Protocol != TCP && p.Protocol != UDP:
		return fmt.Errorf("%w: %s", ErrProtocol, p.Protocol)
	case !p.Source.IsValid(), p.Source.Is4In6(), p.Source.Zone() != "",
		p.Source.IsUnspecified(), p.Source.IsMulticast():
		return fmt.Errorf("%w: %s", ErrSource, p.Source)
	case p.Port == 0:
		return ErrPort
	}
	return nil
}

// String reads "udp 192.0.2.1 port * -> :4042 (12s)".
func (p Pinhole) String() string {
	port := "*"
	if p.SourcePort != 0 {
		port = fmt.Sprint(p.SourcePort)
	}
	return fmt.Sprintf("%s %s port %s -> :%d (%s)", p.Protocol, p.Source, port, p.Port, p.TTL)
}

// Forever is the TTL of a listed pinhole that somebody else made without one.
const Forever time.Duration = math.MaxInt64

// MaxChange is how many pinholes one Change may revoke and open together.
const MaxChange = 20_000

// Change is one atomic change of the openings.
type Change struct {
	Revoke []Pinhole // TTL is ignored
	Open   []Pinhole
}

// Validate reports the first fault in c.
func (c Change) Validate() error {
	if n := len(c.Revoke) + len(c.Open); n > MaxChange {
		return fmt.Errorf("%w: %d, the limit is %d", ErrTooMany, n, MaxChange)
	}
	for _, p := range c.Revoke {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("revoke: %w", err)
		}
	}
	for _, p := range c.Open {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("open: %w", err)
		}
	}
	return nil
}

package spa

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// PinSize is the length of the SHA-256 of a certificate's public key.
const PinSize = 32

const (
	maxAddresses = 2
	addressSize  = 16 + 2 // address, port
	grantSize    = key.IDSize + timeSize + key.Size + PinSize + key.IDSize + 1 +
		maxAddresses*addressSize + 1 + 2 // flags, knock port
)

// Grant lets the knock's sender in. For a knock of [KindControl] it is the
// controller itself that is granted.
type Grant struct {
	Session   key.ID
	Deadline  time.Time // on the controller's clock
	Knock     key.HostKnock
	Pin       [PinSize]byte    // SHA-256 of the SubjectPublicKeyInfo of the other end's certificate
	Host      key.ID           // whom the certificate must name
	Addresses []netip.AddrPort // one or two, the likelier first
	Flags     GrantFlags
	// KnockPort is where host knocks go when the service is reached directly: Addresses
	// have its own port. It is set with [FlagDirect], and only then.
	KnockPort uint16
}

// GrantFlags say how the service is reached. The zero value is a tunnel that
// carries TCP, bound to the exact source of the host knock.
type GrantFlags uint8

// The flags of a grant; other bits are refused.
const (
	// FlagDirect: the client speaks to the service itself, at Addresses.
	FlagDirect GrantFlags = 1 << 0
	// FlagUDP: the service speaks UDP, not TCP.
	FlagUDP GrantFlags = 1 << 1
	// FlagAddress: any source port of the client's address may come in.
	FlagAddress GrantFlags = 1 << 2

	knownFlags = FlagDirect | FlagUDP | FlagAddress
)

// writeGrant writes a grant's part of a reply.
//
//	session 16 | deadline 8 | host-knock secret 32 | pin 32 | host 16 |
//	number of addresses 1 | two times: address 16, port 2 (zero when there is one) |
//	flags 1 | knock port 2
func writeGrant(w *writer, g *Grant) error {
	if len(g.Addresses) == 0 || len(g.Addresses) > maxAddresses || g.Knock.IsZero() {
		return ErrGrant
	}
	if !timely(g.Deadline) {
		return ErrTime
	}
	if !g.flagged() {
		return fmt.Errorf("flags %08b, knock port %d: %w", g.Flags, g.KnockPort, ErrGrant)
	}
	w.bytes(g.Session[:], key.IDSize)
	w.time(g.Deadline)
	w.bytes(g.Knock.RevealBytes(), key.Size)
	w.bytes(g.Pin[:], PinSize)
	w.bytes(g.Host[:], key.IDSize)
	w.byte(byte(len(g.Addresses)))
	for _, a := range g.Addresses {
		if !a.IsValid() || a.Addr().Unmap().IsUnspecified() || a.Port() == 0 {
			return fmt.Errorf("address %s: %w", a, ErrGrant)
		}
		w.address(a.Addr())
		w.uint16(a.Port())
	}
	w.bytes(nil, (maxAddresses-len(g.Addresses))*addressSize) // zeros
	w.byte(byte(g.Flags))
	w.uint16(g.KnockPort)
	return nil
}

func readGrant(r *reader) (*Grant, bool) {
	g := &Grant{Session: r.id()}
	var ok bool
	var err error
	if g.Deadline, ok = r.time(); !ok {
		return nil, false
	}
	if g.Knock, err = key.HostKnockFromBytes(r.take(key.Size)); err != nil {
		return nil, false
	}
	g.Pin = [PinSize]byte(r.take(PinSize))
	g.Host = r.id()
	n := int(r.byte())
	if n == 0 || n > maxAddresses {
		return nil, false
	}
	for range n {
		a, ok := r.address()
		port := r.uint16()
		if !ok || !a.IsValid() || port == 0 {
			return nil, false
		}
		g.Addresses = append(g.Addresses, netip.AddrPortFrom(a, port))
	}
	if !allZero(r.take((maxAddresses - n) * addressSize)) { // PROTOCOL 4.4
		return nil, false
	}
	g.Flags = GrantFlags(r.byte())
	g.KnockPort = r.uint16()
	return g, g.flagged()
}

// flagged reports whether the flags are known and agree with the knock port.
func (g *Grant) flagged() bool { // PROTOCOL 4.5
	direct := g.Flags&FlagDirect != 0
	return g.Flags&^knownFlags == 0 && direct == (g.KnockPort != 0)
}

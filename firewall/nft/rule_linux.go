package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/postern-sdp/postern/firewall"
)

// side says which way a chain looks at packets: the peer is the source of those
// that come in and the destination of the others.
type side struct {
	incoming bool
	// published packets belong to a flow that DNAT sent on: the header's local
	// port is that of the machine behind, the one asked for is in conntrack.
	published bool
}

// The sides of the host itself, and of the ports that it publishes for others.
func input() side    { return side{incoming: true} }
func output() side   { return side{} }
func arriving() side { return side{incoming: true, published: true} }
func leaving() side  { return side{published: true} }

// First registers of 4 bytes; keys of sets are put together from here on.
const firstRegister = 8 // NFT_REG32_00

// Offsets in the IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293) headers.
const (
	ip4Source, ip4Destination = 12, 16
	ip6Source, ip6Destination = 8, 24
	ip6HopLimit               = 7
	icmpType                  = 0
	tcpFlags                  = 13
)

const (
	flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10
)

// peer is the offset of the peer's address.
func (s side) peer(v6 bool) uint32 {
	switch {
	case v6 && s.incoming:
		return ip6Source
	case v6:
		return ip6Destination
	case s.incoming:
		return ip4Source
	}
	return ip4Destination
}

// peerPort and localPort are offsets in the transport header.
func (s side) peerPort() uint32 {
	if s.incoming {
		return 0
	}
	return 2
}

func (s side) localPort() uint32 { return 2 - s.peerPort() }

// loadLocalPort puts the port that the peer asked for into a register.
func (s side) loadLocalPort(to uint32) expr.Any {
	if s.published {
		return &expr.Ct{Key: expr.CtKeyPROTODST, Register: to, Direction: original}
	}
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader,
		Offset: s.localPort(), Len: 2}
}

func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}

func meta(key expr.MetaKey, data ...byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(data...)}
}

func family(v6 bool) []expr.Any {
	if v6 {
		return meta(expr.MetaKeyNFPROTO, syscall.AF_INET6)
	}
	return meta(expr.MetaKeyNFPROTO, syscall.AF_INET)
}

func protocol(number byte) []expr.Any { return meta(expr.MetaKeyL4PROTO, number) }

// interfaceSize is IFNAMSIZ: a whole name is compared with its final zeros.
const interfaceSize = 16

// device matches the interface on the peer's side; a name may end in "*".
func device(s side, name string) []expr.Any {
	key := expr.MetaKeyOIFNAME
	if s.incoming {
		key = expr.MetaKeyIIFNAME
	}
	beginning, isPrefix := strings.CutSuffix(name, "*")
	if isPrefix {
		return meta(key, []byte(beginning)...)
	}
	return meta(key, append([]byte(name), make([]byte, interfaceSize-len(name))...)...)
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
}

// network matches bytes of the IP header, transport those of the header after it.
func network(offset uint32, data ...byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, uint32(len(data))), equal(data...)}
}

func transport(offset uint32, data ...byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, offset, uint32(len(data))), equal(data...)}
}

func port(offset uint32, number uint16) []expr.Any {
	return transport(offset, binary.BigEndian.AppendUint16(nil, number)...)
}

// transportMasked matches one byte under a mask.
func transportMasked(offset uint32, mask, value byte) []expr.Any {
	return []expr.Any{
		load(expr.PayloadBaseTransportHeader, offset, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		equal(value),
	}
}

// peerWithin matches the peer's address against a prefix.
func peerWithin(s side, prefix netip.Prefix) []expr.Any {
	prefix = prefix.Masked()
	address := prefix.Addr().AsSlice()
	mask := make([]byte, len(address))
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	size := uint32(len(address))
	return slices.Concat(family(prefix.Addr().Is6()), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, s.peer(prefix.Addr().Is6()), size),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: mask, Xor: make([]byte, size)},
		equal(address...),
	})
}

// state matches any of the conntrack states in bits.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// dnat is IPS_DST_NAT: the flow's destination was translated.
const dnat = 1 << 5

// sentOn matches packets of flows that DNAT sent on, in both directions.
func sentOn() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Directions of a flow: original is the way of its first packet.
const (
	original = 0
	reply    = 1
)

func direction(d byte) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal(d)}
}

// in looks the packet up in the set of l: source . source port . protocol .
// port, as far as l has them, seen from side s.
func (l layout) in(s side) []expr.Any {
	next := uint32(firstRegister)
	var key []expr.Any
	put := func(base expr.PayloadBase, offset, length uint32) {
		key = append(key, &expr.Payload{DestRegister: next, Base: base, Offset: offset, Len: length})
		next += (length + register - 1) / register
	}
	switch {
	case l.door:
	case l.v6:
		key = family(true)
		put(expr.PayloadBaseNetworkHeader, s.peer(true), 16)
	default:
		key = family(false)
		put(expr.PayloadBaseNetworkHeader, s.peer(false), 4)
	}
	if l.exact {
		put(expr.PayloadBaseTransportHeader, s.peerPort(), 2)
	}
	key = append(key, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next})
	next++
	key = append(key, s.loadLocalPort(next))
	return append(key, &expr.Lookup{SourceRegister: firstRegister, SetName: l.name, SetID: l.id})
}

func localPort(s side, p firewall.Port) []expr.Any {
	return slices.Concat(protocol(byte(p.Protocol)), []expr.Any{
		s.loadLocalPort(1), equal(binary.BigEndian.AppendUint16(nil, p.Number)...)})
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func toChain(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

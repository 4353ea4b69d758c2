package survey

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/google/nftables/expr"
)

// Numbers in linux/netfilter/nf_conntrack_common.h and linux/rtnetlink.h.
const (
	stateEstablished, stateNew = 2, 8
	directionReply             = 1
	typeUnicast, typeLocal     = 1, 2
	anEthernet                 = 1 // ARPHRD_ETHER
)

// Ethernet types.
const etherIPv4, etherIPv6 = 0x0800, 0x86dd

const (
	synFlag, ackFlag = 0x02, 0x10
	flagsOffset      = 13 // of TCP's flags
)

func (p packet) number() byte {
	if p.protocol == "tcp" {
		return syscall.IPPROTO_TCP
	}
	return syscall.IPPROTO_UDP
}

func host32(v uint32) []cell { return known(binary.NativeEndian.AppendUint32(nil, v)...) }

// state is the connection's, as a bit.
func (p packet) state() uint32 {
	if p.answer {
		return stateEstablished
	}
	return stateNew
}

// meta returns what the expression of that name loads.
func (p packet) meta(k expr.MetaKey) []cell {
	name := make([]byte, syscall.IFNAMSIZ)
	copy(name, p.device)
	none := make([]byte, syscall.IFNAMSIZ)
	switch k {
	case expr.MetaKeyL4PROTO:
		return known(p.number())
	case expr.MetaKeyNFPROTO:
		return known(map[int]byte{4: syscall.AF_INET, 6: syscall.AF_INET6}[p.family])
	case expr.MetaKeyPROTOCOL:
		ether := map[int]uint16{4: etherIPv4, 6: etherIPv6}[p.family]
		return known(binary.BigEndian.AppendUint16(nil, ether)...)
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		if p.answer == (k == expr.MetaKeyOIFNAME) {
			return known(name...)
		}
		return known(none...)
	case expr.MetaKeyIIF, expr.MetaKeyOIF:
		if p.answer == (k == expr.MetaKeyOIF) {
			return host32(uint32(p.index))
		}
		return host32(0)
	case expr.MetaKeyPKTTYPE:
		return known(0) // PACKET_HOST
	case expr.MetaKeyMARK:
		return unknown(Rarely, 4)
	}
	return unknown(Maybe, 16)
}

// ct returns what is known of the connection.
func (p packet) ct(k expr.CtKey) []cell {
	switch k {
	case expr.CtKeySTATE:
		return host32(p.state())
	case expr.CtKeyDIRECTION:
		if p.answer {
			return known(directionReply)
		}
		return known(0)
	case expr.CtKeySTATUS:
		if !p.answer {
			return host32(0) // no NAT, not yet confirmed
		}
	case expr.CtKeyMARK:
		return unknown(Rarely, 4)
	}
	return unknown(Maybe, 16)
}

// fib returns what routing says of the addresses.
func (p packet) fib(e *expr.Fib) []cell {
	local := e.FlagDADDR != p.answer
	switch {
	case e.ResultADDRTYPE && local:
		return host32(typeLocal)
	case e.ResultADDRTYPE:
		return host32(typeUnicast)
	}
	return unknown(Rarely, 16) // a reverse path filter
}

// payload returns bytes of the packet's headers.
func (p packet) payload(base expr.PayloadBase, offset, size int) []cell {
	var header []cell
	switch base {
	case expr.PayloadBaseNetworkHeader:
		header = p.network()
	case expr.PayloadBaseTransportHeader:
		header = p.transport()
	}
	out := unknown(Maybe, size)
	if offset >= 0 && offset < len(header) {
		copy(out, header[offset:])
	}
	return out
}

// network is the IP header (RFC 791, RFC 8200).
func (p packet) network() []cell {
	header, length, protocol, source := unknown(Maybe, 20), 4, 9, 12
	if p.family == 6 {
		header, length, protocol, source = unknown(Maybe, 40), 16, 6, 8
	}
	header[protocol] = known(p.number())[0]
	own := unknown(Maybe, length)
	if p.own.IsValid() {
		own = known(p.own.AsSlice()...)
	}
	ends := [2][]cell{unknown(Rarely, length), own}
	if p.answer {
		ends[0], ends[1] = ends[1], ends[0]
	}
	copy(header[source:], ends[0])
	copy(header[source+length:], ends[1])
	return header
}

// transport is the beginning of TCP's and UDP's header.
func (p packet) transport() []cell {
	header := unknown(Maybe, 20)
	if p.protocol == "udp" {
		header = header[:8]
	}
	copy(header, unknown(Rarely, 2))
	local := header[2:4]
	if p.answer {
		copy(header[2:], unknown(Rarely, 2))
		local = header[:2]
	}
	copy(local, unknown(Maybe, 2))
	if p.port != 0 {
		copy(local, known(binary.BigEndian.AppendUint16(nil, p.port)...))
	}
	if p.protocol == "tcp" {
		header[flagsOffset] = known(synFlag)[0]
		if p.answer {
			header[flagsOffset] = known(ackFlag)[0]
		}
	}
	return header
}

// ports tells whether the local or the other end's port is within a range.
func (p packet) ports(local bool, from, to uint16) Level {
	switch {
	case from == 0 && to == 0xffff:
		return Always
	case !local:
		return Rarely
	case p.port == 0:
		return Maybe
	case p.port >= from && p.port <= to:
		return Always
	}
	return Never
}

// address tells whether an end's address is within a prefix.
func (p packet) address(local bool, within netip.Prefix) Level {
	switch {
	case within.Bits() == 0:
		return Always
	case !local:
		return Rarely
	case !p.own.IsValid():
		return Maybe
	case within.Contains(p.own):
		return Always
	}
	return Never
}

package survey

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// rareExtensions are matches of iptables that single out a few: by source, by rate
// or by marks that others set.
func rareExtensions() []string {
	return []string{"limit", "hashlimit", "recent", "set", "connlimit", "mark", "connmark", "iprange",
		"geoip", "mac", "physdev", "quota", "rpfilter", "statistic", "string", "u32", "ttl", "hl",
		"length", "ecn", "dscp", "tos", "socket", "time", "rt", "hbh", "dst", "frag", "ipv6header", "ah", "esp",
		"pkttype", "policy", "tcpmss", "bpf", "cpu", "cluster", "helper", "owner"}
}

// extension tells whether a match of iptables holds for the packet.
func (p packet) extension(m *expr.Match) Level {
	switch info := m.Info.(type) {
	case *xt.Comment:
		return Always
	case *xt.Udp:
		return p.portMatch("udp", info.SrcPorts, info.DstPorts,
			info.InvFlags&xt.UdpInvSrcPorts != 0, info.InvFlags&xt.UdpInvDestPorts != 0)
	case *xt.Tcp:
		level := p.portMatch("tcp", info.SrcPorts, info.DstPorts,
			info.InvFlags&xt.TcpInvSrcPorts != 0, info.InvFlags&xt.TcpInvDestPorts != 0)
		return min(level, p.flags(info))
	case *xt.AddrTypeV1:
		const notSource, notDest = 1, 2 // XT_ADDRTYPE_INVERT_*
		return p.addressTypes(info.Source, info.Dest, info.Flags&notSource != 0, info.Flags&notDest != 0)
	case *xt.AddrType:
		return p.addressTypes(info.Source, info.Dest, info.InvertSource, info.InvertDest)
	case *xt.ConntrackMtinfo1:
		return p.connection(info.MatchFlags, info.InvertFlags, uint16(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return p.connection(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.ConntrackMtinfo3:
		return p.connection(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.Unknown:
		return p.raw(m.Name, m.Rev, *info)
	}
	return Maybe
}

// raw is for extensions that come as the kernel's bytes.
func (p packet) raw(name string, revision uint32, info []byte) Level {
	switch {
	case name == "multiport" && revision == 1 && len(info) >= 48:
		return p.multiport(info)
	case name == "state" && len(info) >= 4:
		return p.states(uint16(binary.NativeEndian.Uint32(info)))
	case slices.Contains(rareExtensions(), name):
		return Rarely
	}
	return Maybe
}

// multiport is struct xt_multiport_v1: flags, count, ports[15], ranges[15], invert.
func (p packet) multiport(info []byte) Level {
	const (
		most                 = 15
		ranges               = 2 + 2*most
		invert               = ranges + most
		sources, destination = 0, 1
	)
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(info[2+2*i:]) }
	if info[0] == sources {
		return Rarely
	}
	level := Never
	for i := 0; i < min(int(info[1]), most); i++ {
		from, to := port(i), port(i)
		if info[ranges+i] != 0 && i+1 < most {
			i++
			to = port(i)
		}
		level = max(level, p.ports(!p.answer, from, to))
	}
	if info[0] != destination { // either end
		level = max(level, Rarely)
	}
	if info[invert] != 0 {
		return not(level)
	}
	return level
}

// portMatch is -m tcp and -m udp.
func (p packet) portMatch(protocol string, source, destination [2]uint16, notSource, notDest bool) Level {
	if protocol != p.protocol {
		return Never
	}
	from := p.ports(p.answer, source[0], source[1])
	to := p.ports(!p.answer, destination[0], destination[1])
	if notSource {
		from = not(from)
	}
	if notDest {
		to = not(to)
	}
	return min(from, to)
}

func (p packet) flags(info *xt.Tcp) Level {
	have := byte(synFlag)
	if p.answer {
		have = ackFlag
	}
	is := have&info.FlagsMask == info.FlagsCmp
	if is != (info.InvFlags&xt.TcpInvFlags != 0) {
		return Always
	}
	return Never
}

// addressTypes is -m addrtype; its bits are 1 << RTN_*.
func (p packet) addressTypes(source, destination uint16, notSource, notDest bool) Level {
	types := [2]uint16{1 << typeUnicast, 1 << typeLocal}
	if p.answer {
		types[0], types[1] = types[1], types[0]
	}
	for _, m := range []struct {
		mask, is uint16
		not      bool
	}{{source, types[0], notSource}, {destination, types[1], notDest}} {
		if m.mask != 0 && (m.mask&m.is != 0) == m.not {
			return Never
		}
	}
	return Always
}

// connection is -m conntrack, of which --ctstate is known.
func (p packet) connection(match, invert, states uint16) Level {
	level := Always
	if match&uint16(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
		level = p.states(states)
		if invert&uint16(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
			level = not(level)
		}
		match &^= uint16(xt.ConntrackState | xt.ConntrackStateAlias)
	}
	if match&uint16(xt.ConntrackDirection) != 0 {
		level = min(level, yes((invert&uint16(xt.ConntrackDirection) != 0) == p.answer))
		match &^= uint16(xt.ConntrackDirection)
	}
	if match != 0 {
		level = min(level, Maybe)
	}
	return level
}

// States in iptables' masks: XT_STATE_BIT is 1 << (state + 1), with established 0, new 2.
const maskEstablished, maskNew = 1 << 1, 1 << 3

func (p packet) states(mask uint16) Level {
	is := uint16(maskNew)
	if p.answer {
		is = maskEstablished
	}
	if mask&is != 0 {
		return Always
	}
	return Never
}

package listen

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Sizes of headers in bytes (RFC 791, RFC 8200, RFC 768).
const (
	maxIPv4HeaderSize = 60
	udpHeaderSize     = 8
)

// frame is what a packet socket hands over: a packet from its network header on,
// and what the kernel says about it.
type frame struct {
	data       []byte
	protocol   layers.EthernetType
	ifindex    int
	loopback   bool // came over the loopback interface
	checksumOK bool // the kernel or the card vouches for the UDP checksum
}

// decoder takes frames apart. Its fields are scratch space, kept so that nothing
// is allocated for a packet; it is for one goroutine at a time.
type decoder struct {
	port   uint16
	length int // of the UDP payload, in bytes

	ipv4 layers.IPv4
	ipv6 layers.IPv6
	udp  layers.UDP
}

// decode reads one frame. The kernel's filter has let only fitting frames through,
// but nothing here relies on that. Data of the Packet is a part of f.data; when
// decode returns false, the Packet is zero.
func (d *decoder) decode(f frame) (Packet, bool) {
	segment, source, destination, ok := d.network(f)
	if !ok || len(segment) != udpHeaderSize+d.length {
		return Packet{}, false
	}
	if d.udp.DecodeFromBytes(segment, gopacket.NilDecodeFeedback) != nil ||
		int(d.udp.Length) != len(segment) || len(d.udp.Payload) != d.length ||
		d.udp.SrcPort == 0 || uint16(d.udp.DstPort) != d.port {
		return Packet{}, false
	}
	if !plausible(source, destination, f.loopback) ||
		!f.checksumOK && !udpChecksumOK(source, destination, segment) {
		return Packet{}, false
	}
	return Packet{
		Data:        d.udp.Payload,
		Source:      netip.AddrPortFrom(scoped(source, f.ifindex), uint16(d.udp.SrcPort)),
		Destination: netip.AddrPortFrom(scoped(destination, f.ifindex), d.port),
	}, true
}

// network reads the IP header and returns what it carries, without the padding
// that a link may have put behind the packet.
func (d *decoder) network(f frame) (segment []byte, source, destination netip.Addr, ok bool) {
	switch f.protocol {
	case layers.EthernetTypeIPv4:
		segment, ok = d.networkIPv4(f.data)
		source, _ = netip.AddrFromSlice(d.ipv4.SrcIP)
		destination, _ = netip.AddrFromSlice(d.ipv4.DstIP)
	case layers.EthernetTypeIPv6:
		segment, ok = d.networkIPv6(f.data)
		source, _ = netip.AddrFromSlice(d.ipv6.SrcIP)
		destination, _ = netip.AddrFromSlice(d.ipv6.DstIP)
	}
	return segment, source, destination, ok
}

func (d *decoder) networkIPv4(data []byte) ([]byte, bool) {
	const fragment = layers.IPv4MoreFragments
	if d.ipv4.DecodeFromBytes(data, gopacket.NilDecodeFeedback) != nil {
		return nil, false
	}
	// gopacket takes a total length of 0, and one beyond the end of data, as "all of it".
	total := int(binary.BigEndian.Uint16(data[2:4]))
	header := len(d.ipv4.Contents)
	if d.ipv4.Version != 4 || d.ipv4.Protocol != layers.IPProtocolUDP ||
		d.ipv4.Flags&fragment != 0 || d.ipv4.FragOffset != 0 ||
		total != header+len(d.ipv4.Payload) || checksum(0, data[:header]) != 0xffff {
		return nil, false
	}
	return d.ipv4.Payload, true
}

func (d *decoder) networkIPv6(data []byte) ([]byte, bool) {
	if len(data) == 0 || data[0]>>4 != 6 {
		return nil, false
	}
	if d.ipv6.DecodeFromBytes(data, gopacket.NilDecodeFeedback) != nil {
		return nil, false
	}
	if d.ipv6.NextHeader != layers.IPProtocolUDP ||
		int(d.ipv6.Length) != len(d.ipv6.Payload) {
		return nil, false
	}
	return d.ipv6.Payload, true
}

// plausible refuses addresses that no unicast packet to this host has: the kernel
// drops those for sockets, and after capture has seen them.
func plausible(source, destination netip.Addr, loopback bool) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	for _, a := range [...]netip.Addr{source, destination} {
		if !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() ||
			a == broadcast || a.IsLoopback() && !loopback {
			return false
		}
	}
	return true
}

// scoped gives link-local addresses the interface's index as their zone (RFC 4007).
func scoped(a netip.Addr, ifindex int) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(strconv.Itoa(ifindex))
	}
	return a
}

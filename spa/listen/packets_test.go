package listen

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// build makes a packet from its network header on, with right lengths and checksums.
func build(t testing.TB, source, destination netip.AddrPort, payload []byte,
	options ...layers.IPv4Option) []byte {
	t.Helper()
	udp := &layers.UDP{
		SrcPort: layers.UDPPort(source.Port()), DstPort: layers.UDPPort(destination.Port()),
	}
	var network interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	s, d := source.Addr().AsSlice(), destination.Addr().AsSlice()
	if source.Addr().Is4() {
		network = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
			SrcIP: s, DstIP: d, Options: options}
	} else {
		network = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
			SrcIP: s, DstIP: d}
	}
	if err := udp.SetNetworkLayerForChecksum(network); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	how := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	err := gopacket.SerializeLayers(b, how, network, udp, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// headerSize is where the UDP header begins in a packet without options.
func headerSize(packet []byte) int {
	if packet[0]>>4 == 4 {
		return 20
	}
	return 40
}

// fixHeader makes the checksum of an IPv4 header right again.
func fixHeader(packet []byte) {
	if packet[0]>>4 != 4 {
		return
	}
	n := int(packet[0]&0xf) * 4
	packet[10], packet[11] = 0, 0
	sum := ^checksum(0, packet[:n])
	packet[10], packet[11] = byte(sum>>8), byte(sum)
}

// udpLengthZero is the one spoiled packet that a kernel takes, over IPv6: as a jumbogram
// that fits an ordinary packet (RFC 2675).
const udpLengthZero = "UDP length 0"

// spoiled are ways to make a good packet one that must not be delivered.
var spoiled = []struct {
	name  string
	only  byte // IP version, or 0 for both
	spoil func(p []byte) []byte
}{
	{"version 5", 0, func(p []byte) []byte { p[0] = p[0]&0xf | 5<<4; fixHeader(p); return p }},
	{"version 0", 0, func(p []byte) []byte { p[0] &= 0xf; fixHeader(p); return p }},
	{"header shorter than itself", 4, func(p []byte) []byte { p[0] = 0x44; return p }},
	{"header longer than the packet says", 4, func(p []byte) []byte {
		p[0], p[2], p[3] = 0x4f, 0, 40
		return p
	}},
	{"header that takes the UDP header in", 4, func(p []byte) []byte {
		p[0] = 0x4f
		fixHeader(p)
		return p
	}},
	{"total length 0", 4, func(p []byte) []byte { p[2], p[3] = 0, 0; fixHeader(p); return p }},
	{"total length too short", 4, func(p []byte) []byte { p[3]--; fixHeader(p); return p }},
	{"total length too long", 4, func(p []byte) []byte { p[3]++; fixHeader(p); return p }},
	{"payload length 0", 6, func(p []byte) []byte { p[4], p[5] = 0, 0; return p }},
	{"payload length too short", 6, func(p []byte) []byte { p[5]--; return p }},
	{"payload length too long", 6, func(p []byte) []byte { p[5]++; return p }},
	{"header checksum", 4, func(p []byte) []byte { p[10] ^= 1; return p }},
	{"not UDP", 0, func(p []byte) []byte {
		p[map[byte]int{4: 9, 6: 6}[p[0]>>4]] = 6
		fixHeader(p)
		return p
	}},
	{"first fragment", 4, func(p []byte) []byte { p[6] |= 0x20; fixHeader(p); return p }},
	{"later fragment", 4, func(p []byte) []byte { p[7] = 1; fixHeader(p); return p }},
	{"first fragment", 6, func(p []byte) []byte { return fragment6(p, 1) }},
	{"later fragment", 6, func(p []byte) []byte { return fragment6(p, 1<<3) }},
	{"another port", 0, func(p []byte) []byte { p[headerSize(p)+3]++; return reseal(p) }},
	{"source port 0", 0, func(p []byte) []byte {
		u := headerSize(p)
		p[u], p[u+1] = 0, 0
		return reseal(p)
	}},
	{udpLengthZero, 0, func(p []byte) []byte {
		u := headerSize(p)
		p[u+4], p[u+5] = 0, 0
		return reseal(p)
	}},
	{"UDP length of a header", 0, func(p []byte) []byte {
		u := headerSize(p)
		p[u+4], p[u+5] = 0, 8
		return reseal(p)
	}},
	{"UDP length too short", 0, func(p []byte) []byte { p[headerSize(p)+5]--; return reseal(p) }},
	{"UDP length too long", 0, func(p []byte) []byte { p[headerSize(p)+5]++; return reseal(p) }},
	{"UDP checksum", 0, func(p []byte) []byte { p[headerSize(p)+6] ^= 1; return p }},
	{"no UDP checksum", 6, func(p []byte) []byte { p[46], p[47] = 0, 0; return p }},
	{"from nowhere", 4, func(p []byte) []byte { clear(p[12:16]); fixHeader(p); return reseal(p) }},
	{"from nowhere", 6, func(p []byte) []byte { clear(p[8:24]); return reseal(p) }},
	{"from loopback", 4, func(p []byte) []byte {
		copy(p[12:], []byte{127, 0, 0, 1})
		fixHeader(p)
		return reseal(p)
	}},
	{"from loopback", 6, func(p []byte) []byte { clear(p[8:23]); p[23] = 1; return reseal(p) }},
	{"from a group", 4, func(p []byte) []byte { p[12] = 224; fixHeader(p); return reseal(p) }},
	{"from a group", 6, func(p []byte) []byte { p[8] = 0xff; return reseal(p) }},
	{"from everybody", 4, func(p []byte) []byte {
		copy(p[12:], []byte{255, 255, 255, 255})
		fixHeader(p)
		return reseal(p)
	}},
	{"to everybody", 4, func(p []byte) []byte {
		copy(p[16:], []byte{255, 255, 255, 255})
		fixHeader(p)
		return reseal(p)
	}},
	{"to a group", 4, func(p []byte) []byte {
		copy(p[16:], []byte{224, 0, 0, 1})
		fixHeader(p)
		return reseal(p)
	}},
	{"to a group", 6, func(p []byte) []byte {
		copy(p[24:], netip.MustParseAddr("ff02::1").AsSlice())
		return reseal(p)
	}},
	{"to loopback", 4, func(p []byte) []byte {
		copy(p[16:], []byte{127, 0, 0, 1})
		fixHeader(p)
		return reseal(p)
	}},
	{"to loopback", 6, func(p []byte) []byte { clear(p[24:39]); p[39] = 1; return reseal(p) }},
}

// fragment6 puts a fragment header (RFC 8200, section 4.5) before the payload.
func fragment6(p []byte, offsetAndFlag byte) []byte {
	b := append([]byte(nil), p[:40]...)
	b[6] = byte(layers.IPProtocolIPv6Fragment)
	length := len(p) - 40 + 8
	b[4], b[5] = byte(length>>8), byte(length)
	b = append(b, protocolUDP, 0, 0, offsetAndFlag, 0, 0, 0, 1)
	return append(b, p[40:]...)
}

// reseal makes the UDP checksum right again, so that nothing else is refused for it.
func reseal(p []byte) []byte {
	n := headerSize(p)
	var source, destination netip.Addr
	if n == 20 {
		source, destination = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	} else {
		source, destination = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
	}
	p[n+6], p[n+7] = 0, 0
	sum := ^udpSum(source, destination, p[n:])
	p[n+6], p[n+7] = byte(sum>>8), byte(sum)
	return p
}

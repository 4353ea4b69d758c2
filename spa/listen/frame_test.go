package listen

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/google/gopacket/layers"
)

var decodeEnds = [][2]netip.AddrPort{
	{netip.MustParseAddrPort("192.0.2.2:1234"), netip.MustParseAddrPort("192.0.2.1:4040")},
	{netip.MustParseAddrPort("[2001:db8::2]:1234"), netip.MustParseAddrPort("[2001:db8::1]:4040")},
}

const (
	decodePort   = 4040
	decodeLength = 256
)

func goodPacket(t testing.TB, ends [2]netip.AddrPort, options ...layers.IPv4Option) []byte {
	t.Helper()
	payload := make([]byte, decodeLength)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	return build(t, ends[0], ends[1], payload, options...)
}

func frameOf(packet []byte) frame {
	f := frame{data: packet, protocol: layers.EthernetTypeIPv4, ifindex: 2}
	if len(packet) > 0 && packet[0]>>4 == 6 {
		f.protocol = layers.EthernetTypeIPv6
	}
	return f
}

func TestDecodeOfSpoiledFrames(t *testing.T) {
	d := decoder{port: decodePort, length: decodeLength}
	for _, ends := range decodeEnds {
		good := frameOf(goodPacket(t, ends))
		p, ok := d.decode(good)
		if !ok || p.Source != ends[0] || p.Destination != ends[1] ||
			len(p.Data) != decodeLength || p.Data[1] != 7 {
			t.Fatalf("good packet: %+v, %t", p, ok)
		}
		for n := range good.data {
			short := good
			short.data = good.data[:n]
			if p, ok := d.decode(short); ok || p.Data != nil {
				t.Errorf("%s: the first %d bytes are delivered", ends[0], n)
			}
		}
		for _, s := range spoiled {
			packet := goodPacket(t, ends)
			if s.only != 0 && s.only != packet[0]>>4 {
				continue
			}
			bad := good
			bad.data = s.spoil(packet)
			if p, ok := d.decode(bad); ok || p.Data != nil {
				t.Errorf("%s, %s: delivered", ends[0], s.name)
			}
		}
		crossed := good
		crossed.protocol = layers.EthernetTypeARP
		if _, ok := d.decode(crossed); ok {
			t.Error("an ARP packet is delivered")
		}
	}
	swapped := frameOf(goodPacket(t, decodeEnds[1]))
	swapped.protocol = layers.EthernetTypeIPv4
	if _, ok := d.decode(swapped); ok {
		t.Error("an IPv6 packet is delivered as IPv4")
	}
	swapped = frameOf(goodPacket(t, decodeEnds[0]))
	swapped.protocol = layers.EthernetTypeIPv6
	if _, ok := d.decode(swapped); ok {
		t.Error("an IPv4 packet is delivered as IPv6")
	}
}

// TestChecksumThatTheCardWillMakeIsNotVerified: over loopback and virtual links,
// the field holds a part of the sum only.
func TestChecksumThatTheCardWillMakeIsNotVerified(t *testing.T) {
	d := decoder{port: decodePort, length: decodeLength}
	for _, ends := range decodeEnds {
		f := frameOf(goodPacket(t, ends))
		f.data[headerSize(f.data)+6] ^= 0x55
		if _, ok := d.decode(f); ok {
			t.Error("a wrong checksum that nobody vouches for is delivered")
		}
		f.checksumOK = true
		if _, ok := d.decode(f); !ok {
			t.Error("a checksum that the kernel vouches for is verified")
		}
	}
	noSum := frameOf(goodPacket(t, decodeEnds[0]))
	noSum.data[26], noSum.data[27] = 0, 0
	if _, ok := d.decode(noSum); !ok {
		t.Error("an IPv4 datagram without checksum is refused")
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	d := decoder{port: decodePort, length: decodeLength}
	for _, ends := range decodeEnds {
		good, bad := frameOf(goodPacket(t, ends)), frameOf(goodPacket(t, ends))
		bad.data[headerSize(bad.data)+6] ^= 1
		for _, f := range []frame{good, bad} {
			if n := testing.AllocsPerRun(100, func() { d.decode(f) }); n != 0 {
				t.Errorf("%s: %v allocations", ends[0], n)
			}
		}
	}
}

func TestChecksumEqualsTheOtherImplementation(t *testing.T) {
	for _, ends := range decodeEnds {
		for _, length := range []int{0, 1, 2, 3, 4, 5, 255, 256, 257} {
			payload := make([]byte, length)
			for i := range payload {
				payload[i] = byte(0xff - i)
			}
			want := build(t, ends[0], ends[1], payload)
			want = want[headerSize(want):]
			got := appendUDP([]byte("foo"), ends[0], ends[1], payload)
			if string(got) != "foo"+string(want) {
				t.Errorf("%d bytes: % x, want % x", length, got[3:], want)
			}
		}
	}
}

func TestChecksumIsNeverSentAsNone(t *testing.T) {
	ends := decodeEnds[1]
	zeroes := appendUDP(nil, ends[0], ends[1], make([]byte, 2))
	// The payload that makes the sum come out as 0 is the checksum of the rest.
	b := appendUDP(nil, ends[0], ends[1], zeroes[6:8])
	if got := binary.BigEndian.Uint16(b[6:8]); got != 0xffff {
		t.Errorf("checksum = %04x, want ffff", got)
	}
}

// FuzzDecode: whatever the bytes, no panic, and what is delivered is a whole datagram.
func FuzzDecode(f *testing.F) {
	corpus, err := os.ReadDir("testdata/fuzz/FuzzDecode")
	if err != nil || len(corpus) == 0 {
		f.Fatalf("the corpus is missing: %v", err)
	}
	for _, ends := range decodeEnds {
		f.Add(goodPacket(f, ends), true)
		f.Add(goodPacket(f, ends), false)
		for _, s := range spoiled {
			if packet := goodPacket(f, ends); s.only == 0 || s.only == packet[0]>>4 {
				f.Add(s.spoil(packet), true)
			}
		}
	}
	d := decoder{port: decodePort, length: decodeLength}
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		for _, protocol := range []layers.EthernetType{
			layers.EthernetTypeIPv4, layers.EthernetTypeIPv6} {
			p, ok := d.decode(frame{data: b, protocol: protocol, ifindex: 2, checksumOK: vouched})
			if !ok {
				if p.Data != nil || p.Source.IsValid() || p.Destination.IsValid() {
					t.Fatalf("refused, and yet %+v", p)
				}
				continue
			}
			if len(p.Data) != decodeLength || p.Destination.Port() != decodePort ||
				p.Source.Port() == 0 || p.Source.Addr().Is4() != p.Destination.Addr().Is4() ||
				!p.Source.IsValid() || p.Source.Addr().IsMulticast() ||
				len(b) < headerSize(b)+udpHeaderSize+decodeLength {
				t.Fatalf("delivered: %+v", p)
			}
		}
	})
}

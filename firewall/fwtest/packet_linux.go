package fwtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// checksum is the internet checksum (RFC 1071) of b.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// withPseudoHeader is the checksum of a transport segment between two addresses.
func withPseudoHeader(from, to netip.Addr, protocol byte, segment []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(segment)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	return checksum(append(pseudo, segment...))
}

// tcpSegment is a header of 20 bytes (RFC 9293, 3.1).
func tcpSegment(from, to netip.AddrPort, flags byte) []byte {
	s := binary.BigEndian.AppendUint16(nil, from.Port())
	s = binary.BigEndian.AppendUint16(s, to.Port())
	s = append(s, 1, 2, 3, 4, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	sum := withPseudoHeader(from.Addr(), to.Addr(), syscall.IPPROTO_TCP, s)
	binary.BigEndian.PutUint16(s[16:], sum)
	return s
}

func udpSegment(from, to netip.AddrPort, size int) []byte {
	s := binary.BigEndian.AppendUint16(nil, from.Port())
	s = binary.BigEndian.AppendUint16(s, to.Port())
	s = binary.BigEndian.AppendUint16(s, uint16(8+size))
	s = append(s, make([]byte, 2+size)...)
	sum := withPseudoHeader(from.Addr(), to.Addr(), syscall.IPPROTO_UDP, s)
	binary.BigEndian.PutUint16(s[6:], sum)
	return s
}

// firstFragment is an IP packet that says that more of it follows (RFC 791,
// 3.1; RFC 8200, 4.5).
func firstFragment(from, to netip.Addr, protocol byte, payload []byte) []byte {
	if from.Is4() {
		h := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x20, 0, 64, protocol, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		h = append(append(h, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(h, payload...)
	}
	h := []byte{0x60, 0, 0, 0, 0, 0, 44, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	h = append(h, protocol, 0, 0, 1, 0x12, 0x34, 0x56, 0x78)
	return append(h, payload...)
}

// sendRaw sends payload as an IP packet's content. That the sender's own firewall
// drops it is no error.
func sendRaw(t testing.TB, from station, to netip.Addr, protocol byte, payload []byte) {
	t.Helper()
	family, address := sockaddr(to)
	from.Do(t, func() {
		fd, err := syscall.Socket(family, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(protocol))
		if err != nil {
			t.Fatalf("raw socket: %v", err)
		}
		defer syscall.Close(fd)
		if err := syscall.Sendto(fd, payload, 0, address); err != nil && err != syscall.EPERM {
			t.Fatalf("send raw packet: %v", err)
		}
	})
}

// sendWhole sends a packet with its IP header.
func sendWhole(t testing.TB, from station, to netip.Addr, packet []byte) {
	t.Helper()
	sendRaw(t, from, to, syscall.IPPROTO_RAW, packet)
}

func sockaddr(a netip.Addr) (family int, address syscall.Sockaddr) {
	if a.Is4() {
		return syscall.AF_INET, &syscall.SockaddrInet4{Addr: a.As4()}
	}
	return syscall.AF_INET6, &syscall.SockaddrInet6{Addr: a.As16()}
}

// tap sees every frame that reaches a station's interface.
type tap struct{ fd int }

func newTap(t testing.TB, s station) *tap {
	t.Helper()
	tapped := &tap{}
	s.Do(t, func() {
		i, err := net.InterfaceByName(testkit.Interface)
		if err != nil {
			t.Fatal(err)
		}
		tapped.fd, err = syscall.Socket(syscall.AF_PACKET,
			syscall.SOCK_RAW|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("packet socket: %v", err)
		}
		at := &syscall.SockaddrLinklayer{Protocol: bigEndian(syscall.ETH_P_ALL), Ifindex: i.Index}
		if err := syscall.Bind(tapped.fd, at); err != nil {
			t.Fatalf("bind packet socket: %v", err)
		}
	})
	t.Cleanup(func() { syscall.Close(tapped.fd) })
	return tapped
}

// bigEndian is htons.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}

// from returns the IP packets of a sender seen since the last call, without
// neighbour discovery and multicast listener reports.
func (p *tap) from(t testing.TB, sender station) (packets [][]byte) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	for {
		k, at, err := syscall.Recvfrom(p.fd, buffer, 0)
		if err == syscall.EAGAIN {
			return packets
		}
		if err != nil {
			t.Fatalf("read packet socket: %v", err)
		}
		link, ok := at.(*syscall.SockaddrLinklayer)
		if !ok || link.Pkttype == syscall.PACKET_OUTGOING || k < 14 {
			continue
		}
		packet := append([]byte(nil), buffer[14:k]...)
		switch source, protocol, content := parse(packet); {
		case !source.IsValid():
		case source != sender.v4 && source != sender.v6 && !source.IsLinkLocalUnicast():
		case protocol == syscall.IPPROTO_ICMPV6 && len(content) > 0 && linkMessage(content[0]):
		default:
			packets = append(packets, packet)
		}
	}
}

// wait returns the packets of a sender, at the latest after a while without any.
func (p *tap) wait(t testing.TB, sender station, while time.Duration) (packets [][]byte) {
	t.Helper()
	began := time.Now()
	testkit.Eventually(t, while+soon, "a while is over", func() bool {
		packets = p.from(t, sender)
		return len(packets) > 0 || time.Since(began) > while
	})
	return packets
}

// parse reads an IP header without options; ARP and others give no source.
func parse(packet []byte) (source netip.Addr, protocol byte, content []byte) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		source, _ = netip.AddrFromSlice(packet[12:16])
		return source, packet[9], packet[20:]
	case len(packet) >= 40 && packet[0]>>4 == 6:
		source, _ = netip.AddrFromSlice(packet[8:24])
		protocol, content = packet[6], packet[40:]
		if protocol == 0 && len(content) >= 8 { // hop-by-hop options of MLD
			protocol, content = content[0], content[8:]
		}
		return source, protocol, content
	}
	return source, 0, nil
}

// linkMessage tells ICMPv6 types that never leave the link: MLD and ND.
func linkMessage(icmpType byte) bool {
	return icmpType >= 130 && icmpType <= 137 || icmpType == 143
}

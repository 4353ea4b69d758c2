package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Scan is what one sweep of all ports of one address brought.
type Scan struct {
	Target  netip.Addr
	Sent    int // probes: one TCP SYN and one UDP datagram a port, echo requests
	Answers int // packets of any kind that came back from Target, neighbour discovery aside
	Kinds   map[string]int
}

// String reads "198.51.100.30: 131071 probes, 0 answers".
func (s Scan) String() string {
	text := fmt.Sprintf("%s: %d probes, %d answers", s.Target, s.Sent, s.Answers)
	if s.Answers > 0 {
		text += fmt.Sprintf(" %v", s.Kinds)
	}
	return text
}

// scanPort is the source port of the probes.
const scanPort = 53 // a port that careless firewalls trust

// settle is how long a scan listens after its last probe.
const settle = 300 * time.Millisecond

// Scan sends, from the machine called from, a TCP SYN and a UDP datagram to every
// port of target, and echo requests, and counts every packet that comes back.
// source is the scanning machine's own address.
func (l *Lab) Scan(from string, source, target netip.Addr) (Scan, error) {
	var ear, tcp, udp, icmp int
	err := l.in(from, func() (err error) {
		if ear, err = openEar(); err != nil {
			return err
		}
		if tcp, err = openRaw(target, unix.IPPROTO_TCP); err != nil {
			return err
		}
		proto := unix.IPPROTO_ICMP
		if target.Is6() {
			proto = unix.IPPROTO_ICMPV6
		}
		if icmp, err = openRaw(target, proto); err != nil {
			return err
		}
		udp, err = openRaw(target, unix.IPPROTO_UDP)
		return err
	})
	defer func() {
		for _, fd := range []int{ear, tcp, udp, icmp} {
			if fd > 0 {
				unix.Close(fd)
			}
		}
	}()
	if err != nil {
		return Scan{}, fmt.Errorf("open scan sockets on %s: %w", from, err)
	}
	scan := Scan{Target: target, Kinds: make(map[string]int)}
	stop := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { scan.listen(ear, stop) })
	sent, err := sweep(tcp, udp, icmp, source, target)
	time.Sleep(settle)
	close(stop)
	listening.Wait()
	scan.Sent = sent
	return scan, err
}

func openEar() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0300) // ETH_P_ALL, network order
	if err != nil {
		return 0, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	timeout := unix.NsecToTimeval(int64(50 * time.Millisecond))
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func openRaw(target netip.Addr, protocol int) (int, error) {
	family := unix.AF_INET
	if target.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // the ear listens, not this
	return fd, nil
}

// listen counts what comes from the target until stop is closed.
func (s *Scan) listen(ear int, stop <-chan struct{}) {
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(ear, buf, 0)
		if err == nil {
			if link, ok := from.(*unix.SockaddrLinklayer); !ok || link.Pkttype != unix.PACKET_OUTGOING {
				if kind := answerKind(buf[:n], s.Target); kind != "" {
					s.Answers++
					s.Kinds[kind]++
				}
			}
			continue
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

// answerKind names the protocol of an IP packet sent by target, or returns ""
// when it is something else.
func answerKind(packet []byte, target netip.Addr) string {
	var source netip.Addr
	var protocol, first byte
	switch {
	case len(packet) >= 21 && packet[0]>>4 == 4:
		source, protocol = netip.AddrFrom4([4]byte(packet[12:16])), packet[9]
	case len(packet) >= 41 && packet[0]>>4 == 6:
		source, protocol, first = netip.AddrFrom16([16]byte(packet[8:24])), packet[6], packet[40]
	}
	if source != target {
		return ""
	}
	switch protocol {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		const solicit, advert = 135, 136 // neighbour discovery, IPv6's ARP (RFC 4861)
		if first == solicit || first == advert {
			return ""
		}
		return "icmpv6"
	}
	return fmt.Sprintf("protocol %d", protocol)
}

func sweep(tcp, udp, icmp int, source, target netip.Addr) (sent int, err error) {
	to := sockaddr(target)
	send := func(fd int, b []byte) error {
		for try := 0; ; try++ {
			err := unix.Sendto(fd, b, 0, to)
			// A full queue passes; an ICMP error of an unprotected host is an answer, not a fault.
			soft := errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) ||
				errors.Is(err, unix.ECONNREFUSED)
			if err == nil || !soft || try == 100 {
				sent++
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		if err := send(icmp, echoRequest(source, target)); err != nil {
			return sent, fmt.Errorf("send echo request: %w", err)
		}
	}
	for port := 1; port <= 65535; port++ {
		if err := send(tcp, synSegment(source, target, uint16(port))); err != nil {
			return sent, fmt.Errorf("send SYN to port %d: %w", port, err)
		}
		if err := send(udp, udpDatagram(source, target, uint16(port))); err != nil {
			return sent, fmt.Errorf("send UDP to port %d: %w", port, err)
		}
	}
	return sent, nil
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// synSegment is a TCP segment (RFC 9293) with SYN set and no options.
func synSegment(source, target netip.Addr, port uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], scanPort)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint32(b[4:], uint32(port)<<8)
	b[12], b[13] = 5<<4, 0x02
	binary.BigEndian.PutUint16(b[14:], 1024)
	binary.BigEndian.PutUint16(b[16:], checksum(source, target, unix.IPPROTO_TCP, b))
	return b
}

// udpDatagram carries 256 bytes, as a knock does.
func udpDatagram(source, target netip.Addr, port uint16) []byte {
	b := make([]byte, 8+256)
	binary.BigEndian.PutUint16(b[0:], scanPort)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	for i := 8; i < len(b); i++ {
		b[i] = byte(i*int(port) + i)
	}
	binary.BigEndian.PutUint16(b[6:], checksum(source, target, unix.IPPROTO_UDP, b))
	return b
}

func echoRequest(source, target netip.Addr) []byte {
	b := make([]byte, 8)
	if target.Is6() {
		b[0] = 128 // the kernel fills in the checksum of ICMPv6
		return b
	}
	b[0] = 8
	binary.BigEndian.PutUint16(b[2:], ^fold(uint32(b[0])<<8))
	return b
}

// checksum is the Internet checksum (RFC 1071) over the pseudo header and b.
func checksum(source, target netip.Addr, protocol byte, b []byte) uint16 {
	sum := uint32(protocol) + uint32(len(b))
	for _, part := range [][]byte{source.AsSlice(), target.AsSlice(), b} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	return ^fold(sum)
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

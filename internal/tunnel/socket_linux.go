package tunnel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// udpGRO is UDP_GRO of linux/udp.h: as an option, it asks for datagrams of one
// source to be joined; as a control message, it has the size of each.
const udpGRO = unix.UDP_GRO

// prepare asks for joined datagrams (Linux 5.0; older ones go without) and, when
// the socket has many addresses, for the one each datagram was sent to.
func prepare(udp *net.UDPConn, anyAddress bool) error {
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, udpGRO, 1)
		if !anyAddress {
			return
		}
		four := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		six := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		if four != nil && six != nil {
			infoErr = os.NewSyscallError("setsockopt", four)
		}
	})
	if err != nil {
		return err
	}
	return infoErr
}

// readControl reads the control messages of one read: the size of the joined
// datagrams, 0 when there is only one, the address they were sent to, and the
// messages that are left for QUIC. The kernel wrote them: one that is cut short
// ends the reading.
func readControl(oob []byte) (size int, local netip.Addr, rest []byte) {
	rest = oob
	for left := oob; len(left) >= unix.SizeofCmsghdr; {
		header, body, next, err := unix.ParseOneSocketControlMessage(left)
		if err != nil {
			break
		}
		switch {
		case header.Level == unix.IPPROTO_UDP && header.Type == udpGRO && len(body) >= 2:
			size = int(binary.NativeEndian.Uint16(body))
			if len(left) == len(oob) { // the kernel puts it first
				rest = next
			}
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(body) >= 12:
			local = netip.AddrFrom4([4]byte(body[8:12]))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(body) >= 16:
			local = netip.AddrFrom16([16]byte(body[:16])).Unmap()
		}
		left = next
	}
	return size, local, rest
}

// tcpGone reports whether c is a TCP connection that is over in both directions.
func tcpGone(c any) bool {
	conn, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State == unix.BPF_TCP_CLOSE
	})
	return err == nil && gone
}

// lastSegment returns the last one of the datagrams that b is to become, as the
// control messages say (UDP_SEGMENT, udp(7)).
func lastSegment(b, oob []byte) []byte {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			if size := int(binary.NativeEndian.Uint16(data)); size > 0 && size < len(b) {
				return b[(len(b)-1)/size*size:]
			}
		}
		oob = rest
	}
	return b
}

package listen

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// ancillary is what the kernel says beside a datagram.
type ancillary struct {
	destination netip.Addr // never mapped, without zone
	ifindex     int
	dropped     uint32 // the socket's drop counter, modulo 2^32
}

// ancillarySize has room for both families' packet info and the drop counter.
var ancillarySize = unix.CmsgSpace(unix.SizeofInet6Pktinfo) +
	unix.CmsgSpace(unix.SizeofInet4Pktinfo) + unix.CmsgSpace(4)

// parseAncillary reads control messages (ip(7), ipv6(7), SO_RXQ_OVFL of socket(7))
// and allocates nothing.
func parseAncillary(b []byte) (ancillary, error) {
	var a ancillary
	for len(b) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return ancillary{}, fmt.Errorf("parse control message: %w", err)
		}
		b = rest
		switch {
		case header.Level == unix.SOL_IP && header.Type == unix.IP_PKTINFO &&
			len(data) >= unix.SizeofInet4Pktinfo:
			a.ifindex = int(binary.NativeEndian.Uint32(data))
			a.destination = netip.AddrFrom4([4]byte(data[8:12]))
		case header.Level == unix.SOL_IPV6 && header.Type == unix.IPV6_PKTINFO &&
			len(data) >= unix.SizeofInet6Pktinfo:
			a.destination = netip.AddrFrom16([16]byte(data)).Unmap()
			a.ifindex = int(binary.NativeEndian.Uint32(data[16:]))
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL &&
			len(data) >= 4:
			a.dropped = binary.NativeEndian.Uint32(data)
		}
	}
	return a, nil
}

// sendFrom is the control message that makes a packet leave from an address, which
// the kernel checks to be the host's own. On an AF_INET6 socket (wide) IPv4 addresses are
// given mapped.
func sendFrom(from netip.Addr, wide bool) ([]byte, error) {
	if !wide {
		address := from.As4()
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: address}), nil
	}
	info := unix.Inet6Pktinfo{Addr: from.As16()}
	if from.Zone() != "" {
		index, err := zoneIndex(from.Zone())
		if err != nil {
			return nil, err
		}
		info.Ifindex = uint32(index)
	}
	return unix.PktInfo6(&info), nil
}

// zoneIndex is the index of the interface that a zone names or numbers.
func zoneIndex(zone string) (int, error) {
	if index, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return int(index), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %q: %w", zone, err)
	}
	return ifi.Index, nil
}

// pair checks the ends of a reply and returns them unmapped.
func pair(to, from netip.AddrPort) (netip.AddrPort, netip.AddrPort, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	for _, a := range [...]netip.AddrPort{to, from} {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return to, from, fmt.Errorf("%s: %w", a, ErrAddress)
		}
	}
	if to.Addr().Is4() != from.Addr().Is4() {
		return to, from, fmt.Errorf("%s, %s: %w", to, from, ErrFamilies)
	}
	return to, from, nil
}

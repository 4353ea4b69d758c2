package listen

import (
	"encoding/binary"
	"net/netip"
)

const protocolUDP = 17 // IANA protocol number

// checksum adds b to the one's complement sum of RFC 1071, started at sum, and
// folds it to 16 bits. Over data that holds its right checksum it is 0xffff.
func checksum(sum uint64, b []byte) uint16 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// udpSum is the sum over the pseudo-header (RFC 768; RFC 8200, section 8.1) and
// the UDP segment. The addresses are of one family.
func udpSum(source, destination netip.Addr, segment []byte) uint16 {
	sum := uint64(protocolUDP) + uint64(len(segment))
	if source.Is4() {
		s, d := source.As4(), destination.As4()
		sum += uint64(checksum(uint64(checksum(0, s[:])), d[:]))
	} else {
		s, d := source.As16(), destination.As16()
		sum += uint64(checksum(uint64(checksum(0, s[:])), d[:]))
	}
	return checksum(sum, segment)
}

// udpChecksumOK verifies a received segment of at least 8 bytes. Over IPv4 the
// sender may leave the checksum out; over IPv6 it may not.
func udpChecksumOK(source, destination netip.Addr, segment []byte) bool {
	if binary.BigEndian.Uint16(segment[6:8]) == 0 {
		return source.Is4()
	}
	return udpSum(source, destination, segment) == 0xffff
}

// appendUDP appends a UDP header with its checksum, and the payload.
func appendUDP(dst []byte, from, to netip.AddrPort, payload []byte) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, from.Port())
	dst = binary.BigEndian.AppendUint16(dst, to.Port())
	dst = binary.BigEndian.AppendUint16(dst, uint16(udpHeaderSize+len(payload)))
	dst = append(dst, 0, 0)
	dst = append(dst, payload...)
	sum := ^udpSum(from.Addr(), to.Addr(), dst[start:])
	if sum == 0 {
		sum = 0xffff // 0 means that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(dst[start+6:], sum)
	return dst
}

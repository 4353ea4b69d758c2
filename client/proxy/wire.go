package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
)

// SOCKS5, RFC 1928 and, for the password, RFC 1929.
const (
	socksVersion    = 5
	passwordVersion = 1
	socks4Version   = 4
	socks4Refused   = 0x5b

	methodNone     = 0x00
	methodPassword = 0x02
	methodRefused  = 0xff

	commandConnect   = 0x01
	commandAssociate = 0x03

	familyIPv4 = 0x01
	familyName = 0x03
	familyIPv6 = 0x04

	replyOK              = 0x00
	replyFailed          = 0x01
	replyNotAllowed      = 0x02
	replyNetUnreachable  = 0x03
	replyHostUnreachable = 0x04
	replyRefused         = 0x05
	replyTimeout         = 0x06 // "TTL expired", which clients show as a time-out
	replyNoCommand       = 0x07
	replyNoFamily        = 0x08
)

// address is where a client wants to go.
type address struct {
	host string // an IP address in its text form, or a name
	port uint16
}

// readMethods reads what a client begins with: the ways to log in that it knows.
func readMethods(r io.Reader) ([]byte, error) {
	var head [2]byte // version, number of methods
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return nil, err
	}
	if head[0] != socksVersion {
		return nil, errMalformed
	}
	return methods, nil
}

// readPassword reads a user's name and password.
func readPassword(r io.Reader) (user, password string, err error) {
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return "", "", err
	}
	if version[0] != passwordVersion {
		return "", "", errMalformed
	}
	if user, err = readText(r); err != nil {
		return "", "", err
	}
	password, err = readText(r)
	return user, password, err
}

// readText reads a length of one byte and that many bytes.
func readText(r io.Reader) (string, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", err
	}
	text := make([]byte, length[0])
	_, err := io.ReadFull(r, text)
	return string(text), err
}

// readRequest reads a command and what it is for.
func readRequest(r io.Reader) (command byte, to address, err error) {
	var head [3]byte // version, command, reserved
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, address{}, err
	}
	if head[0] != socksVersion {
		return 0, address{}, errMalformed
	}
	to, err = readAddress(r)
	return head[1], to, err
}

// readAddress reads an address in one of its three families.
func readAddress(r io.Reader) (address, error) {
	var family [1]byte
	if _, err := io.ReadFull(r, family[:]); err != nil {
		return address{}, err
	}
	var a address
	var err error
	switch family[0] {
	case familyIPv4:
		a.host, err = readIP(r, 4)
	case familyIPv6:
		a.host, err = readIP(r, 16)
	case familyName:
		a.host, err = readText(r)
	default:
		return address{}, fmt.Errorf("%w: %d", errFamily, family[0])
	}
	var port [2]byte
	if err == nil {
		_, err = io.ReadFull(r, port[:])
	}
	if err != nil {
		return address{}, err
	}
	a.port = binary.BigEndian.Uint16(port[:])
	return a, nil
}

func readIP(r io.Reader, size int) (string, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip.Unmap().String(), nil
}

// appendReply appends the answer to a request.
func appendReply(dst []byte, reply byte, bound netip.AddrPort) []byte {
	dst = append(dst, socksVersion, reply, 0)
	ip := bound.Addr().Unmap()
	switch {
	case ip.Is6():
		dst = append(dst, familyIPv6)
	case ip.Is4():
		dst = append(dst, familyIPv4)
	default:
		ip = netip.IPv4Unspecified()
		dst = append(dst, familyIPv4)
	}
	dst = append(dst, ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(dst, bound.Port())
}

// splitPacket reads a datagram of an association: two reserved bytes, the fragment's
// number, the address, and the data. It returns the header as the client wrote it,
// which answers carry as well; both are parts of b. Fragments are refused, as they may be.
func splitPacket(b []byte) (to address, header, data []byte, err error) {
	const reserved, fragment = 2, 1 // bytes
	if len(b) < reserved+fragment || b[reserved] != 0 {
		return address{}, nil, nil, errMalformed
	}
	r := bytes.NewReader(b[reserved+fragment:])
	if to, err = readAddress(r); err != nil {
		return address{}, nil, nil, errMalformed
	}
	header = b[:len(b)-r.Len()]
	return to, header, b[len(header):], nil
}

//go:build !linux

package tunnel

import (
	"net"
	"net/netip"
)

// prepare has nothing to do: datagrams are read one by one here.
func prepare(*net.UDPConn, bool) error { return nil }

// readControl leaves all control messages to QUIC.
func readControl(oob []byte) (size int, local netip.Addr, rest []byte) {
	return 0, netip.Addr{}, oob
}

// tcpGone cannot tell here.
func tcpGone(any) bool { return false }

// lastSegment returns b: there is one datagram in each write here.
func lastSegment(b, _ []byte) []byte { return b }

// Package lossy takes the errors of sending that pass for what they are to a
// datagram: it was lost. QUIC would end the connection at the first of them.
package lossy

import (
	"errors"
	"net"
)

// Is reports whether err says that this datagram cannot be sent now, and nothing
// about the next one.
func Is(err error) bool {
	for _, e := range lossErrors() {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Conn is a UDP socket for QUIC, whose datagrams may get lost on the way out.
type Conn struct{ *net.UDPConn }

// WriteMsgUDP is that of [net.UDPConn], and returns no error that [Is] loss.
func (c Conn) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = c.UDPConn.WriteMsgUDP(b, oob, to)
	if err != nil && Is(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

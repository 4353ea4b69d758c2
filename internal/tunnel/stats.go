package tunnel

import "time"

// Stats is what a connection has done so far.
type Stats struct {
	Since          time.Time     // the handshake was through
	RTT            time.Duration // smoothed (RFC 9002, section 5.3)
	Sent, Received uint64        // bytes of QUIC packets
	Knocks         uint64        // host knocks, those of the handshake included
}

// Stats returns what the connection has done so far.
func (c *Conn) Stats() Stats {
	s := c.quic.ConnectionStats()
	return Stats{
		Since: c.since, RTT: s.SmoothedRTT, Sent: s.BytesSent, Received: s.BytesReceived,
		Knocks: c.gate.watch.count.Load(),
	}
}

package client

import (
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// AccessInfo is what an Access is doing. Of a service in mode direct, path, round
// trip and bytes are not known: it is reached without us.
type AccessInfo struct {
	Service  string    `json:"service"`
	Session  key.ID    `json:"session"`
	Host     key.ID    `json:"host"`
	Deadline time.Time `json:"deadline"` // on this machine's clock
	control.Access
	Streams   int              `json:"streams"`        // connections and flows that are open
	Connected bool             `json:"connected"`      // a tunnel is up
	Path      netip.AddrPort   `json:"path,omitzero"`  // the host's address in use
	RTT       control.Duration `json:"rtt,omitempty"`  // smoothed
	Sent      uint64           `json:"bytes_sent"`     // by the present tunnel, on the wire
	Received  uint64           `json:"bytes_received"` // the same
	Knocks    uint64           `json:"host_knocks"`    // of the present tunnel
	Since     time.Time        `json:"since,omitzero"` // the present tunnel is up
}

// Info returns what the Access is doing now.
func (a *Access) Info() AccessInfo {
	a.mu.Lock()
	g, conn, streams := a.mu.granted.onClock(), a.mu.conn, a.mu.inUse
	a.mu.Unlock()
	info := AccessInfo{
		Service: a.Service, Session: g.Session, Host: g.Host, Deadline: g.Deadline,
		Access: g.Access(), Streams: streams,
	}
	if conn == nil || conn.Err() != nil {
		return info
	}
	s := conn.Stats()
	info.Connected, info.Path, info.RTT = true, conn.Address(), control.Duration(s.RTT)
	info.Sent, info.Received, info.Knocks, info.Since = s.Sent, s.Received, s.Knocks, s.Since
	return info
}

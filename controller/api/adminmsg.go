package api

import (
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// TokenRequest asks for a join token.
type TokenRequest struct {
	Role    control.Role     `json:"role"`
	User    string           `json:"user,omitempty"` // whom a client's device will act for
	Name    string           `json:"name"`           // of the device or host to be
	Expires control.Duration `json:"expires"`        // from now
}

// TokenCreated is the only answer that ever holds a join token's text.
type TokenCreated struct {
	TokenInfo
	Text       string `json:"join_token"`
	Invitation string `json:"invitation,omitempty"` // the same as a link; none where it does not fit into one
}

// TokenInfo is a join token without its secret.
type TokenInfo struct {
	ID      key.ID       `json:"id"`
	Role    control.Role `json:"role"`
	User    string       `json:"user,omitempty"`
	Name    string       `json:"name"`
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
	Used    bool         `json:"used"`
}

// DeviceInfo is an enrolled client machine.
type DeviceInfo struct {
	ID       key.ID    `json:"id"`
	Name     string    `json:"name"`
	User     string    `json:"user"`
	Created  time.Time `json:"created"`
	Revoked  bool      `json:"revoked"`
	Sessions int       `json:"sessions"`
}

// HostInfo is an enrolled host.
type HostInfo struct {
	ID        key.ID           `json:"id"`
	Name      string           `json:"name"`
	Created   time.Time        `json:"created"`
	Online    bool             `json:"online"`
	Since     time.Time        `json:"since,omitzero"`
	Version   string           `json:"version,omitempty"`
	Addresses []netip.AddrPort `json:"addresses,omitempty"`
	Sessions  int              `json:"sessions"`
}

// ServiceRequest adds a service.
type ServiceRequest struct {
	Name   string `json:"name"`
	Host   string `json:"host"`   // the host's name
	Target string `json:"target"` // ip:port that the host dials
	control.Access
	Listed bool `json:"listed,omitempty"` // shown to those who may not reach it, too
}

// ServiceInfo is one service.
type ServiceInfo struct {
	Name   string `json:"name"`
	Host   string `json:"host"`
	Target string `json:"target"`
	control.Access
	Listed  bool      `json:"listed"`
	Created time.Time `json:"created"`
	Online  bool      `json:"online"`
}

// GrantRequest adds or removes the grant of one service to one user.
type GrantRequest struct {
	User    string           `json:"user"`
	Service string           `json:"service"`
	For     control.Duration `json:"for,omitzero"` // 0: policy's default
}

// GrantInfo is one rule of the policy in force.
type GrantInfo struct {
	Users    []string         `json:"users"`
	Services []string         `json:"services"`
	For      control.Duration `json:"for"`
	From     string           `json:"from"` // "command", or file and line
}

// EmergencyInfo is one record that a host told of its emergency keys.
type EmergencyInfo struct {
	Host     key.ID                  `json:"host"`
	Name     string                  `json:"name"` // the host's
	Received time.Time               `json:"received"`
	Record   control.EmergencyRecord `json:"record"`
	Hash     string                  `json:"hash"` // in the host's chain
}

// Cut tells what a revocation did besides being recorded.
type Cut struct {
	Sessions int `json:"sessions"` // ended
	// Confirmed is set when each host said that it ended them. One that is away
	// does so when it is back, or at the session's deadline.
	Confirmed bool `json:"confirmed"`
}

// Status is the daemon's condition.
type Status struct {
	Name       string            `json:"name"`
	ID         key.ID            `json:"id"`
	Version    string            `json:"version"`
	Since      time.Time         `json:"since"`
	Knock      netip.AddrPort    `json:"knock"`
	Control    netip.AddrPort    `json:"control"`
	Source     string            `json:"knock_source"`
	Firewall   string            `json:"firewall"`
	Capture    bool              `json:"control_capture"`
	Identities int               `json:"identities"` // that may knock
	Devices    int               `json:"devices"`
	Hosts      int               `json:"hosts"`
	Online     int               `json:"hosts_online"`
	Services   int               `json:"services"`
	Sessions   int               `json:"sessions"`
	Knocks     map[string]uint64 `json:"knocks"`      // by reason
	HostKnocks map[string]uint64 `json:"host_knocks"` // at the control port, by reason
	Granted    uint64            `json:"granted"`
	Denied     uint64            `json:"denied"`
	Busy       uint64            `json:"busy"`
	// Emergencies are records that hosts told of since the start; BadReports, those
	// that made no sense or contradicted what was known.
	Emergencies uint64 `json:"emergencies"`
	BadReports  uint64 `json:"bad_reports"`
	Dropped     uint64 `json:"kernel_dropped"` // by a receive buffer that was full
	// CertificateExpires is the end of the controller's own, renewed before.
	CertificateExpires time.Time `json:"certificate_expires"`
}

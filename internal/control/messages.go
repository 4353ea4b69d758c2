package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// Paths of the control API. Every request but Enroll needs the caller's own
// certificate, and that certificate must name the identity whose knock opened
// the way for the caller's address.
const (
	PathEnroll   = "/v1/enroll"   // POST EnrollRequest -> EnrollResponse
	PathRenew    = "/v1/renew"    // POST RenewRequest -> RenewResponse
	PathServices = "/v1/services" // GET -> ServicesResponse (clients)
	PathSessions = "/v1/sessions" // GET -> SessionsResponse (clients: their own)
	PathClose    = "/v1/close"    // POST CloseRequest -> {} (clients: their own session)
	PathAgent    = "/v1/agent"    // POST, a stream of FromHost one way and ToHost the other (hosts)
)

// MaxBody bounds every request and response body, in bytes.
const MaxBody = 1 << 20

// ALPN is the protocol name of the control plane's QUIC connections (RFC 9114).
const ALPN = "h3"

// Role says what kind of identity a join token or certificate is for.
type Role string

// The roles.
const (
	RoleClient     Role = "client"
	RoleHost       Role = "host"
	RoleController Role = "controller"
)

// Valid reports whether r is a role that can enrol.
func (r Role) Valid() bool { return r == RoleClient || r == RoleHost }

// EnrollRequest asks for an identity, over a connection opened by the token's own knock.
type EnrollRequest struct {
	Token     key.ID `json:"token"`      // public number of the join token
	Name      string `json:"name"`       // the machine's own name, a proposal
	PublicKey []byte `json:"public_key"` // PKIX, ECDSA P-256, made and kept by the joiner
	Signature []byte `json:"signature"`  // by that key over EnrollContext || Token (ASN.1 over SHA-256)
}

// EnrollContext starts what an EnrollRequest's signature covers.
const EnrollContext = "postern/v1 enroll"

// EnrollResponse is the identity. Asked again with the same token and key, the answer is the same.
type EnrollResponse struct {
	ID           key.ID   `json:"id"`
	Name         string   `json:"name"`
	Role         Role     `json:"role"`
	KnockSecret  string   `json:"knock_secret"` // key.Knock.Reveal; goes to a private file only
	Certificates [][]byte `json:"certificates"` // DER, leaf first, without the root
	Authority    []byte   `json:"authority"`    // DER, the root
}

// RenewRequest asks for a fresh certificate for the same identity and key, or for a new key.
type RenewRequest struct {
	PublicKey []byte `json:"public_key"`
	Signature []byte `json:"signature"` // by that key over RenewContext || the caller's ID
}

// RenewContext starts what a RenewRequest's signature covers.
const RenewContext = "postern/v1 renew"

// RenewResponse carries the fresh certificate.
type RenewResponse struct {
	Certificates [][]byte `json:"certificates"`
}

// Service is one service as a client sees it.
type Service struct {
	Name   string   `json:"name"`
	Host   string   `json:"host"`
	Port   uint16   `json:"port"`   // that the service listens on, for stable local ports
	Online bool     `json:"online"` // the host's agent is connected
	For    Duration `json:"for"`    // the longest session policy grants
	Access
}

// ServicesResponse lists what the caller may reach, and what is not kept from it that
// it may not.
type ServicesResponse struct {
	Device   string    `json:"device"`
	User     string    `json:"user"`
	Services []Service `json:"services"`
	Others   []Other   `json:"others,omitempty"`
}

// Other is a service that the caller may not reach, and why not.
type Other struct {
	Name   string `json:"name"`
	Reason string `json:"reason"` // for people
}

// SessionInfo is one live session as its owner or the administrator sees it.
type SessionInfo struct {
	ID       key.ID     `json:"id"`
	Device   key.ID     `json:"device"`
	Name     string     `json:"device_name"`
	User     string     `json:"user"`
	Service  string     `json:"service"`
	Host     string     `json:"host"`
	Source   netip.Addr `json:"source"`
	Started  time.Time  `json:"started"`
	Deadline time.Time  `json:"deadline"`
}

// SessionsResponse lists sessions.
type SessionsResponse struct {
	Sessions []SessionInfo `json:"sessions"`
}

// CloseRequest ends a session of the caller's.
type CloseRequest struct {
	Session key.ID `json:"session"`
}

// ErrorResponse is the body of every answer that is not 2xx.
type ErrorResponse struct {
	Error string `json:"error"`
}

// Mode says how a client reaches a service.
type Mode string

// The modes.
const (
	// ModeTunnel carries the service through QUIC to the host itself.
	ModeTunnel Mode = "tunnel"
	// ModeDirect opens the service's own port to the client.
	ModeDirect Mode = "direct"
	// ModeGateway carries the service through QUIC to another machine behind the host.
	ModeGateway Mode = "gateway"
)

// Transport is what a service speaks.
type Transport string

// The transports.
const (
	TransportTCP Transport = "tcp"
	TransportUDP Transport = "udp"
)

// Binding says whom a session's pinhole lets in.
type Binding string

// The bindings.
const (
	// BindExact: the address and port of the host knock.
	BindExact Binding = "exact"
	// BindAddress: every port of one address.
	BindAddress Binding = "address"
)

// Access is how a service is reached. Empty fields mean [ModeTunnel],
// [TransportTCP], and the mode's own binding: [BindAddress] for [ModeDirect], else
// [BindExact].
type Access struct {
	Mode      Mode      `json:"mode,omitempty"`
	Transport Transport `json:"transport,omitempty"`
	Binding   Binding   `json:"binding,omitempty"`
}

// Session is a granted access as the controller orders it from a host.
type Session struct {
	ID      key.ID `json:"id"`
	Device  key.ID `json:"device"`
	Service string `json:"service"`
	Target  string `json:"target"` // host:port that the host dials; for ModeDirect the port counts
	Access
	Source netip.Addr `json:"source"` // the client's address as the controller saw it, or as claimed
	// TTL is the time left when the message was written; hosts count it on their
	// monotonic clock, so that no wall clock that jumps shortens or extends it.
	TTL      Duration      `json:"ttl"`
	Deadline time.Time     `json:"deadline"` // the same on the controller's clock, for people
	Knock    HostKnockText `json:"knock"`
}

// HostKnockText is a [key.HostKnock] that marshals for the sealed control
// channel and for the agent's private state file, and prints nothing.
type HostKnockText struct{ key.HostKnock }

// Format implements [fmt.Formatter] and hides the secret from every verb.
func (HostKnockText) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[secret]") }

// MarshalText implements [encoding.TextMarshaler].
func (k HostKnockText) MarshalText() ([]byte, error) { return []byte(k.Reveal()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *HostKnockText) UnmarshalText(text []byte) error {
	parsed, err := key.ParseHostKnock(string(text))
	if err != nil {
		return err
	}
	k.HostKnock = parsed
	return nil
}

// ToHost is one order to a host's agent; exactly one of the pointers is set.
// Orders are acknowledged by number, in any order.
type ToHost struct {
	Number uint64     `json:"number"`
	Sync   *Sync      `json:"sync,omitempty"` // first message of every stream
	Open   *Session   `json:"open,omitempty"` // open, or renew when the session is known: replace its TTL
	Close  *CloseHost `json:"close,omitempty"`
	Ping   *Ping      `json:"ping,omitempty"`
	Told   *Told      `json:"told,omitempty"`
}

// Sync is the whole truth at the start of a stream: the host ends every session
// that is not listed and opens every one that is.
type Sync struct {
	Now      time.Time `json:"now"` // controller's clock
	Sessions []Session `json:"sessions"`
}

// CloseHost ends a session on a host.
type CloseHost struct {
	Session key.ID `json:"session"`
	Reason  string `json:"reason"` // shown to the client: "revoked", "expired", "closed by its owner"
}

// Ping asks for an acknowledgement, and tells the time: the controller's clock may be
// set while a stream lasts.
type Ping struct {
	Now time.Time `json:"now,omitzero"` // controller's clock; none from an older version
}

// FromHost is one message of a host's agent; exactly one of the pointers is set.
type FromHost struct {
	Hello *Hello `json:"hello,omitempty"` // first message of every stream
	Ack   *Ack   `json:"ack,omitempty"`
	Ended *Ended `json:"ended,omitempty"`
	// Emergency tells of a use of break-glass, once the host is connected again.
	Emergency *EmergencyReport `json:"emergency,omitempty"`
}

// Hello introduces the agent.
type Hello struct {
	Version string `json:"version"`
	// Port is the UDP port of the agent's tunnel end.
	Port uint16 `json:"port"`
	// Advertise are the addresses clients shall dial; when empty, the address
	// the controller sees with Port.
	Advertise []netip.AddrPort `json:"advertise,omitempty"`
	// Sessions are those the agent still serves, for a controller that lost its
	// newest ones in a crash to judge again.
	Sessions []Session `json:"sessions"`
}

// Ack answers the order of the same number; an empty Error means done.
type Ack struct {
	Number uint64 `json:"number"`
	Error  string `json:"error,omitempty"`
}

// Ended tells that a session is over on the host.
type Ended struct {
	Session key.ID `json:"session"`
	Reason  string `json:"reason"`
	Bytes   uint64 `json:"bytes"` // both directions, service side
}

// Duration is a time.Duration that is written as Go writes it ("1h30m0s").
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: want a form like 30s, 10m or 8h", text)
	}
	*d = Duration(parsed)
	return nil
}

// EncodeLine appends one message of the agent stream: JSON and a newline.
func EncodeLine(dst []byte, message any) ([]byte, error) {
	b, err := json.Marshal(message)
	if err != nil {
		return dst, fmt.Errorf("encode control message: %w", err)
	}
	return append(append(dst, b...), '\n'), nil
}

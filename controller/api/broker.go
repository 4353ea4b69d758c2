package api

import (
	"context"
	"crypto/x509"
	"net/netip"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// Caller is who is at the other end of a control connection. Each answer is
// scoped to it.
type Caller struct {
	ID     key.ID
	Role   control.Role
	Name   string
	User   string // of clients
	Source netip.AddrPort
	// Joining callers hold a join token and no identity yet: ID is the token's.
	Joining bool
	// PublicKey is the registered key (PKIX); a certificate for another one,
	// replaced since, is not theirs any more.
	PublicKey []byte
	// Expired callers came with a certificate whose time is over: they may renew
	// it and nothing else.
	Expired bool
}

// Door knows whose host knock let a source in.
type Door interface {
	// Connected ties a connection to the host knock that its source came in by, and
	// returns whose it is. A host knock is good for one connection. disconnect ends
	// the connection and does not block; gone must be called when it has ended.
	Connected(source netip.AddrPort, disconnect func(error)) (identity key.ID, gone func(), err error)
}

// Broker is what the control API gives access to. Its methods are safe for
// concurrent use. Errors wrap one of this package's sentinels to be told to the
// caller; others are logged and told as [ErrInternal].
type Broker interface {
	// Who returns what is registered of an identity or an unexpired join token.
	Who(id key.ID) (Caller, bool)

	// Roots and Authority are those of the certificates to accept.
	Roots() *x509.CertPool
	Authority() string

	Enroll(context.Context, Caller, control.EnrollRequest) (control.EnrollResponse, error)
	Renew(context.Context, Caller, control.RenewRequest) (control.RenewResponse, error)
	Services(context.Context, Caller) (control.ServicesResponse, error)
	Sessions(context.Context, Caller) (control.SessionsResponse, error)
	CloseSession(context.Context, Caller, key.ID) error

	// Agent runs a host's stream until it ends.
	Agent(ctx context.Context, caller Caller, stream AgentStream) error
}

// AgentStream is a host's stream of orders. Send and Recv may run at the same
// time; Close wakes both, and may be called more than once.
type AgentStream interface {
	Send(order control.ToHost) error
	Recv() (control.FromHost, error)
	Close()
}

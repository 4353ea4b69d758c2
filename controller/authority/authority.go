// Package authority issues the short-lived certificates by which controllers,
// hosts and devices know each other. The identity is one URI in the certificate;
// names in it are for people only.
package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// Errors of this package.
var (
	ErrPublicKey = errors.New("the public key is not ECDSA on P-256")
	ErrID        = errors.New("a certificate is for an identity")
	ErrExpired   = errors.New("the authority's own certificate has expired")
	ErrName      = errors.New("the authority was made under another name")
	ErrLifetime  = errors.New("a certificate's lifetime is positive")
	ErrExists    = errors.New("there is an authority already; it is left as it is")
	ErrDamaged   = errors.New("the authority's files are damaged or do not belong together")
)

// Request is what a certificate is to say.
type Request struct {
	Role      control.Role
	ID        key.ID
	PublicKey []byte // PKIX, ECDSA P-256; the caller has seen a proof of possession
	Name      string // the common name, for people
}

// Authority issues certificates. It is safe for concurrent use.
type Authority interface {
	// Issue returns a chain in DER, leaf first and without the root, that is valid
	// from five minutes ago for the lifetime, or to the root's own end.
	Issue(ctx context.Context, r Request, lifetime time.Duration) (chain [][]byte, err error)
	// Root returns the certificate that all chains end at.
	Root() *x509.Certificate
}

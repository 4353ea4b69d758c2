package control

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// identityScheme is the scheme of the one URI that a certificate carries:
// postern://AUTHORITY/ROLE/ID.
const identityScheme = "postern"

// Errors of certificates.
var (
	ErrNoIdentity      = errors.New("the certificate does not carry exactly one Postern identity")
	ErrRole            = errors.New("the certificate is for another role")
	ErrPeerCertificate = errors.New("the other end's certificate is not valid here")
)

// Identity is whom a certificate names.
type Identity struct {
	Authority string
	Role      Role
	ID        key.ID
}

// URI returns the form that certificates carry.
func (i Identity) URI() *url.URL {
	path := "/" + string(i.Role) + "/" + i.ID.String()
	return &url.URL{Scheme: identityScheme, Host: i.Authority, Path: path}
}

// String returns the identity's URI.
func (i Identity) String() string { return i.URI().String() }

// IdentityFromCertificate reads the identity of a leaf certificate. It verifies
// no signature: see [VerifyPeer].
func IdentityFromCertificate(cert *x509.Certificate) (Identity, error) {
	if cert == nil || cert.IsCA || len(cert.URIs) != 1 {
		return Identity{}, ErrNoIdentity
	}
	u := cert.URIs[0]
	role, id, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	parsed, err := key.ParseID(id)
	if !ok || err != nil {
		return Identity{}, ErrNoIdentity
	}
	got := Identity{Authority: u.Host, Role: Role(role), ID: parsed}
	known := got.Role == RoleClient || got.Role == RoleHost || got.Role == RoleController
	// One spelling only: what is written back must be what was read. That refuses
	// ports, users, queries, fragments, escapes and upper-case digits.
	if !known || got.ID.IsZero() || got.Authority == "" || strings.Contains(got.Authority, ":") ||
		got.Authority != strings.ToLower(got.Authority) || got.URI().String() != u.String() {
		return Identity{}, ErrNoIdentity
	}
	return got, nil
}

// PublicKeyPin returns the SHA-256 of the certificate's SubjectPublicKeyInfo.
func PublicKeyPin(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// VerifyPeer verifies a chain as it was presented, leaf first, and returns the
// leaf's identity. Only the leaf lends its identity; the other certificates serve
// as intermediates or not at all. The leaf must be valid at now for the role
// wanted: client and host may speak as TLS clients, host and controller as servers.
func VerifyPeer(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, want Role) (
	Identity, error) {
	if len(chain) == 0 || roots == nil {
		return Identity{}, fmt.Errorf("%w: none was presented", ErrPeerCertificate)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	usage := x509.ExtKeyUsageServerAuth
	if want == RoleClient {
		usage = x509.ExtKeyUsageClientAuth
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrPeerCertificate, err)
	}
	got, err := IdentityFromCertificate(chain[0])
	if err != nil {
		return Identity{}, err
	}
	if got.Role != want {
		return Identity{}, fmt.Errorf("%w: it is for a %s, not a %s", ErrRole, got.Role, want)
	}
	return got, nil
}

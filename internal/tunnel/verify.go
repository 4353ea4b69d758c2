package tunnel

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// verifyHost returns the check of the host's end: its chain, role, ID and key.
// Names are IDs here, so crypto/tls cannot check them and is told not to try.
func verifyHost(roots *x509.CertPool, host key.ID, pin [sha256.Size]byte,
	now func() time.Time) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		identity, err := verifyPeer(s, roots, now, control.RoleHost)
		if err != nil {
			return err
		}
		if identity.ID != host {
			return fmt.Errorf("%w: it is another host", ErrVerify)
		}
		got := control.PublicKeyPin(s.PeerCertificates[0])
		if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
			return fmt.Errorf("%w: its key is not the pinned one", ErrVerify)
		}
		return nil
	}
}

// verifyClient returns the check of the client's end: its chain and role. Which
// client may use which session is for ServerConfig.Authorize to say.
func verifyClient(roots *x509.CertPool, now func() time.Time) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		_, err := verifyPeer(s, roots, now, control.RoleClient)
		return err
	}
}

func verifyPeer(s tls.ConnectionState, roots *x509.CertPool, now func() time.Time,
	role control.Role) (control.Identity, error) {
	if s.DidResume || s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != ALPN {
		return control.Identity{}, fmt.Errorf("%w: not a full handshake of this protocol", ErrVerify)
	}
	identity, err := control.VerifyPeer(s.PeerCertificates, roots, now(), role)
	if err != nil {
		return control.Identity{}, fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return identity, nil
}

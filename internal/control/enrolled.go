package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// Enrolled is the identity of one device or host, as its folder holds it. It is
// safe for concurrent use, and no formatting verb shows its secrets.
type Enrolled struct {
	ID         key.ID
	Name       string // as the controller registered it
	Role       Role
	Controller Controller
	Authority  *x509.Certificate // the root that all certificates here descend from

	secret key.Knock
	signer func() *ecdsa.PrivateKey
	folder string // "" until saved

	// mu guards what changes while the identity is in use.
	mu struct {
		sync.Mutex
		chain  []*x509.Certificate // own certificate first
		offset time.Duration       // controller's clock minus ours, as last seen
		// boot is the controller's time when this machine booted, by the last answer to
		// this process; zero before it. It stays right when our clock is set.
		boot   time.Time
		server netip.AddrPort // the controller's address that answered last
	}
}

// Folder returns where the identity is kept.
func (e *Enrolled) Folder() string { return e.folder }

// Leaf returns the identity's own certificate.
func (e *Enrolled) Leaf() *x509.Certificate {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.chain[0]
}

// Roots returns the pool that holds the authority and nothing else.
func (e *Enrolled) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(e.Authority)
	return pool
}

// TLSCertificate returns the current certificate with its key, for a TLS end.
func (e *Enrolled) TLSCertificate() *tls.Certificate {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &tls.Certificate{PrivateKey: e.signer(), Leaf: e.mu.chain[0]}
	for _, cert := range e.mu.chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// Offset is the controller's clock minus ours, as last seen.
func (e *Enrolled) Offset() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.offsetsLocked()[0]
}

// Guess is the offset for the n-th of several datagrams one of which has to be right:
// they take turns where the clocks of this machine disagree.
func (e *Enrolled) Guess(n uint64) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.offsetsLocked()
	return all[n%uint64(len(all))]
}

// offsetsLocked returns the offset by the clock since boot and, where it disagrees, the
// one by the wall clock: in a virtual machine that was stopped, that one is right.
func (e *Enrolled) offsetsLocked() []time.Duration {
	if e.mu.boot.IsZero() {
		return []time.Duration{e.mu.offset}
	}
	now := e.mu.boot.Add(bootclock.Now()).Sub(time.Now().Round(0))
	if (now - e.mu.offset).Abs() < offsetWorthDoubting {
		return []time.Duration{now}
	}
	return []time.Duration{now, e.mu.offset}
}

// ResetKey marks the stateless resets of this host's tunnels. It is the same for
// as long as the identity is.
func (e *Enrolled) ResetKey() key.Subkey { return e.secret.ResetKey() }

// RenewDue reports whether two thirds of the certificate's life are over at now,
// which is on the controller's clock.
func (e *Enrolled) RenewDue(now time.Time) bool { return !now.Before(e.RenewAt()) }

// RenewAt is when two thirds of the certificate's life are over.
func (e *Enrolled) RenewAt() time.Time {
	leaf := e.Leaf()
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
}

// KnockConfig returns what a knock of this identity needs; the caller adds what
// the knock asks for.
func (e *Enrolled) KnockConfig(kind spa.Kind) KnockConfig {
	e.mu.Lock()
	defer e.mu.Unlock()
	offsets := e.offsetsLocked()
	return KnockConfig{
		Controller: e.Controller, ID: e.ID, Secret: e.secret, Kind: kind,
		Offset: offsets[0], Doubts: offsets[1:], Prefer: e.mu.server,
	}
}

// Knock sends a knock that KnockConfig began, and remembers what the answer tells
// of the controller's clock and address.
func (e *Enrolled) Knock(ctx context.Context, c KnockConfig) (Answer, error) {
	answer, err := Knock(ctx, c)
	if !answer.Time.IsZero() { // a refusal tells the time too
		e.learn(answer)
	}
	return answer, err
}

// Dial is [Dial] by this identity. It remembers what the answer tells, too.
func (e *Enrolled) Dial(ctx context.Context, options ...func(*KnockConfig)) (*Client, error) {
	k := e.KnockConfig(spa.KindControl)
	for _, option := range options {
		option(&k)
	}
	c, err := Dial(ctx, DialConfig{Knock: k, Certificate: e.TLSCertificate(), Roots: e.Roots()})
	if err != nil {
		return nil, err
	}
	e.learn(c.answer)
	return c, nil
}

// Renew fetches a fresh certificate for the same key over c and stores it.
func (e *Enrolled) Renew(ctx context.Context, c *Client) error {
	request, err := NewRenewRequest(e.signer(), e.ID)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	response, err := c.Renew(ctx, request)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	chain, err := parseChain(response.Certificates)
	if err == nil {
		err = e.check(chain, time.Now().Add(c.Offset()))
	}
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	return e.UpdateCertificate(chain)
}

// check refuses a certificate chain that is not this identity's.
func (e *Enrolled) check(chain []*x509.Certificate, now time.Time) error {
	got, err := VerifyPeer(chain, e.Roots(), now, e.Role)
	if err != nil {
		return err
	}
	if got.ID != e.ID || !e.signer().PublicKey.Equal(chain[0].PublicKey) {
		return fmt.Errorf("%w: it is not for this identity and key", ErrCertificate)
	}
	return nil
}

func parseChain(der [][]byte) ([]*x509.Certificate, error) {
	const most = 8
	if len(der) == 0 || len(der) > most {
		return nil, fmt.Errorf("%w: a chain has 1 to %d of them", ErrCertificate, most)
	}
	var chain []*x509.Certificate
	for _, b := range der {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		chain = append(chain, c)
	}
	return chain, nil
}

package controller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/controller/authority"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const renewRetry = time.Minute // after a renewal that failed

// certificate is the controller's own. Its key lives as long as the process, so
// that the pin in a grant holds across renewals; it is never written anywhere.
type certificate struct {
	authority authority.Authority
	request   authority.Request
	lifetime  time.Duration
	key       *ecdsa.PrivateKey
	current   atomic.Pointer[tls.Certificate]
}

func newCertificate(ctx context.Context, a authority.Authority, id key.ID, name string,
	lifetime time.Duration) (*certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the controller's certificate key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the controller's public key: %w", err)
	}
	c := &certificate{
		authority: a, lifetime: lifetime, key: k,
		request: authority.Request{Role: control.RoleController, ID: id, PublicKey: public, Name: name},
	}
	return c, c.renew(ctx)
}

func (c *certificate) renew(ctx context.Context) error {
	chain, err := c.authority.Issue(ctx, c.request, c.lifetime)
	if err != nil {
		return fmt.Errorf("issue the controller's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("read the controller's certificate: %w", err)
	}
	// A joiner knows the root by its hash only, so the root goes along.
	chain = append(chain, c.authority.Root().Raw)
	c.current.Store(&tls.Certificate{Certificate: chain, PrivateKey: c.key, Leaf: leaf})
	return nil
}

// pin is what a grant tells of the controller's key.
func (c *certificate) pin() [sha256.Size]byte { return sha256.Sum256(c.request.PublicKey) }

// expires is the end of the certificate in use.
func (c *certificate) expires() time.Time { return c.current.Load().Leaf.NotAfter }

// run renews the certificate at two thirds of its life until ctx ends.
func (c *certificate) run(ctx context.Context, log *slog.Logger) error {
	for {
		pause(ctx, time.Until(c.expires().Add(-c.lifetime/3)))
		if ctx.Err() != nil {
			return nil
		}
		if err := c.renew(ctx); err != nil {
			log.Error("own certificate not renewed, trying again", logkeys.Error, err,
				logkeys.Deadline, c.expires())
			pause(ctx, renewRetry)
		}
	}
}

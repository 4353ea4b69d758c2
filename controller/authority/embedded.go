package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	backdate     = 5 * time.Minute // for clocks that are a little behind
	keyFile      = "authority.key"
	rootFile     = "authority.pem"
	keyBlock     = "PRIVATE KEY"
	rootBlock    = "CERTIFICATE"
)

// Embedded is an authority whose key lies in the controller's state folder.
type Embedded struct {
	name string
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	now  func() time.Time
}

var _ Authority = (*Embedded)(nil)

// Create makes an authority called name in dir. It never overwrites one.
func Create(dir, name string, now time.Time) (*Embedded, error) {
	for _, file := range []string{keyFile, rootFile} {
		if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("create authority in %s: %w", dir, errors.Join(ErrExists, err))
		}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: commonName(name)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode authority's key: %w", err)
	}
	keyText := pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: pkcs8})
	rootText := pem.EncodeToMemory(&pem.Block{Type: rootBlock, Bytes: der})
	if err := createPrivate(filepath.Join(dir, keyFile), keyText); err != nil {
		return nil, fmt.Errorf("write authority's key: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, rootFile), rootText, 0o644); err != nil {
		// A key without its certificate would only be in the way of the next attempt.
		return nil, errors.Join(fmt.Errorf("write root certificate: %w", err),
			os.Remove(filepath.Join(dir, keyFile)))
	}
	return Load(dir, name)
}

// createPrivate makes the file, and fails if there is one: of two who create an
// authority at once, one gets the key file and the other an error.
func createPrivate(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // ours, and of no use
	}
	return nil
}

// commonName is what the root certificate says for people, and what ties it to
// the authority's name, which is part of every identity.
func commonName(name string) string { return name + " Postern authority" }

// Load opens the authority called name in dir.
func Load(dir, name string) (*Embedded, error) {
	keyText, err := atomicfile.ReadPrivate(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("read authority's key: %w", err)
	}
	rootText, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		return nil, fmt.Errorf("read root certificate: %w", err)
	}
	keyPEM, _ := pem.Decode(keyText)
	rootPEM, _ := pem.Decode(rootText)
	if keyPEM == nil || rootPEM == nil {
		return nil, fmt.Errorf("read authority in %s: %w", dir, ErrDamaged)
	}
	private, err := x509.ParsePKCS8PrivateKey(keyPEM.Bytes)
	k, ok := private.(*ecdsa.PrivateKey)
	if err != nil || !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read authority's key in %s: %w", dir, ErrDamaged)
	}
	root, err := x509.ParseCertificate(rootPEM.Bytes)
	if err != nil || !root.IsCA || !k.PublicKey.Equal(root.PublicKey) {
		return nil, fmt.Errorf("read root certificate in %s: %w", dir, ErrDamaged)
	}
	if root.Subject.CommonName != commonName(name) {
		return nil, fmt.Errorf("read root certificate in %s: %w: %q", dir, ErrName,
			root.Subject.CommonName)
	}
	return &Embedded{name: name, key: k, root: root, now: time.Now}, nil
}

// Root implements [Authority].
func (e *Embedded) Root() *x509.Certificate { return e.root }

// Issue implements [Authority].
func (e *Embedded) Issue(_ context.Context, r Request, lifetime time.Duration) ([][]byte, error) {
	parsed, err := x509.ParsePKIXPublicKey(r.PublicKey)
	public, ok := parsed.(*ecdsa.PublicKey)
	usage := usages(r.Role)
	now := e.now()
	switch {
	case err != nil || !ok || public.Curve != elliptic.P256():
		return nil, fmt.Errorf("issue certificate: %w", ErrPublicKey)
	case usage == nil:
		return nil, fmt.Errorf("issue certificate: %w", control.ErrRole)
	case r.ID.IsZero():
		return nil, fmt.Errorf("issue certificate: %w", ErrID)
	case lifetime <= 0:
		return nil, fmt.Errorf("issue certificate: %w", ErrLifetime)
	case !now.Before(e.root.NotAfter):
		return nil, fmt.Errorf("issue certificate: %w", ErrExpired)
	}
	who := control.Identity{Authority: e.name, Role: r.Role, ID: r.ID}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: r.Name},
		NotBefore: latest(now.Add(-backdate), e.root.NotBefore),
		NotAfter:  earliest(now.Add(lifetime), e.root.NotAfter),
		KeyUsage:  x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
		BasicConstraintsValid: true, URIs: []*url.URL{who.URI()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, e.root, public, e.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", who, err)
	}
	return [][]byte{der}, nil
}

// usages are what the holder of a role's certificate may be in TLS. The control
// API's clients are hosts too; nobody is let in by a controller.
func usages(role control.Role) []x509.ExtKeyUsage {
	switch role {
	case control.RoleClient:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case control.RoleHost:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case control.RoleController:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return nil
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// serial returns a positive number of 17 bytes, 128 bits of it random (RFC 5280,
// section 4.1.2.2, allows 20 bytes).
func serial() *big.Int {
	var b [17]byte
	rand.Read(b[1:]) // never fails, see crypto/rand.Read
	b[0] = 1
	return new(big.Int).SetBytes(b[:])
}

package host

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// authority is a certificate authority of the tests' own.
type authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	private := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{root, private}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// issue returns a certificate for the key, valid from a minute ago for life.
func (a *authority) issue(t testing.TB, role control.Role, id key.ID, public *ecdsa.PublicKey,
	from time.Time, life time.Duration) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	uri := control.Identity{Authority: "lab", Role: role, ID: id}.URI()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: from.Add(life),
		URIs:        []*url.URL{uri},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.root, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// certificate makes a key and a certificate for it.
func (a *authority) certificate(t testing.TB, role control.Role, id key.ID) tls.Certificate {
	t.Helper()
	private := newKey(t)
	der := a.issue(t, role, id, &private.PublicKey, time.Now().Add(-time.Minute), time.Hour)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// hostIdentity is what an enrolment leaves behind.
type hostIdentity struct {
	id     key.ID
	secret key.Knock
	cert   tls.Certificate
}

func (a *authority) host(t testing.TB) hostIdentity {
	t.Helper()
	id := key.NewID()
	return hostIdentity{id, key.NewKnock(), a.certificate(t, control.RoleHost, id)}
}

// write makes the folder that control.LoadIdentity reads.
func (h hostIdentity) write(t testing.TB, folder string, a *authority, c control.Controller) {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(h.cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := json.Marshal(map[string]any{
		"version": 1, "id": h.id, "name": "web1", "role": control.RoleHost,
		"knock_secret": h.secret.Reveal(),
		"controller": map[string]any{
			"name": c.Name, "addresses": c.Addresses, "public_key": c.PublicKey,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for name, content := range map[string][]byte{
		"key.pem": block("PRIVATE KEY", private), "ca.pem": block("CERTIFICATE", a.root.Raw),
		"cert.pem": block("CERTIFICATE", h.cert.Certificate[0]), "identity.json": identity,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

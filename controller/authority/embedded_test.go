package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

func publicKey(t *testing.T, curve elliptic.Curve) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func create(t *testing.T) (*Embedded, string) {
	t.Helper()
	dir := t.TempDir()
	e, err := Create(dir, "ctl.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return e, dir
}

func issue(t *testing.T, e *Embedded, role control.Role, id key.ID) *x509.Certificate {
	t.Helper()
	r := Request{Role: role, ID: id, PublicKey: publicKey(t, elliptic.P256()), Name: "web1"}
	chain, err := e.Issue(t.Context(), r, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pool(e *Embedded) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(e.Root())
	return p
}

func TestACertificateServesForItsOwnRoleOnly(t *testing.T) {
	e, _ := create(t)
	id := key.NewID()
	for _, role := range []control.Role{control.RoleClient, control.RoleHost, control.RoleController} {
		cert := issue(t, e, role, id)
		for _, want := range []control.Role{control.RoleClient, control.RoleHost, control.RoleController} {
			got, err := control.VerifyPeer([]*x509.Certificate{cert}, pool(e), time.Now(), want)
			if role == want && (err != nil || got != control.Identity{Authority: "ctl.example", Role: role, ID: id}) {
				t.Errorf("%s as %s: %v, %v", role, want, got, err)
			}
			if role != want && err == nil {
				t.Errorf("a certificate for a %s was taken for a %s", role, want)
			}
		}
	}
}

func TestACertificateEndsAndBeginsInItsTime(t *testing.T) {
	e, _ := create(t)
	cert := issue(t, e, control.RoleClient, key.NewID())
	for off, valid := range map[time.Duration]bool{
		-10 * time.Minute: false, -time.Minute: true, 59 * time.Minute: true, 61 * time.Minute: false,
	} {
		chain := []*x509.Certificate{cert}
		_, err := control.VerifyPeer(chain, pool(e), time.Now().Add(off), control.RoleClient)
		if (err == nil) != valid {
			t.Errorf("%s from now: %v", off, err)
		}
	}
}

// An authority's other certificate in the chain must not lend its identity
// (GHSA-mrpr-756c-xm47 in another product).
func TestOnlyTheLeafLendsItsIdentity(t *testing.T) {
	e, _ := create(t)
	victim := issue(t, e, control.RoleClient, key.NewID())
	other, _ := create(t)
	forged := issue(t, other, control.RoleClient, key.NewID())
	_, err := control.VerifyPeer([]*x509.Certificate{forged, victim, e.Root()}, pool(e), time.Now(), control.RoleClient)
	if !errors.Is(err, control.ErrPeerCertificate) {
		t.Errorf("a stranger's leaf with a good certificate behind it: %v", err)
	}
	mine := issue(t, e, control.RoleClient, key.NewID())
	got, err := control.VerifyPeer([]*x509.Certificate{mine, victim}, pool(e), time.Now(), control.RoleClient)
	own, _ := control.IdentityFromCertificate(mine)
	if err != nil || got != own {
		t.Errorf("with another's certificate behind it: %v, %v", got, err)
	}
}

func TestIdentitiesHaveOneSpelling(t *testing.T) {
	id := key.NewID().String()
	good := "postern://ctl.example/client/" + id
	for _, c := range []struct {
		uris []string
		ca   bool
		ok   bool
	}{
		{[]string{good}, false, true},
		{nil, false, false},
		{[]string{good, good}, false, false},
		{[]string{good}, true, false},
		{[]string{"spiffe://ctl.example/client/" + id}, false, false},
		{[]string{"postern://ctl.example/admin/" + id}, false, false},
		{[]string{"postern://ctl.example/client/" + id[:30]}, false, false},
		{[]string{"postern://ctl.example/client/" + id + "/x"}, false, false},
		{[]string{"postern://ctl.example/client/ABCDEF" + id[6:]}, false, false},
		{[]string{"postern://ctl.example:1/client/" + id}, false, false},
		{[]string{"postern://user@ctl.example/client/" + id}, false, false},
		{[]string{good + "?x=1"}, false, false},
		{[]string{good + "#x"}, false, false},
		{[]string{"postern://ctl.example/client/" + key.ID{}.String()}, false, false},
		{[]string{"postern://ctl.example?/client/" + id}, false, false},
		{[]string{"postern:ctl.example/client/" + id}, false, false},
		{[]string{"POSTERN://ctl.example/client/" + strings.ToUpper(id)}, false, false},
		{[]string{"postern://CTL.example/client/" + id}, false, false},
		{[]string{"postern://ctl.example/Client/" + id}, false, false},
		{[]string{"postern:///client/" + id}, false, false},
		{[]string{"postern://ctl.example//client/" + id}, false, false},
		{[]string{"postern://ctl.example/%63lient/" + id}, false, false},
	} {
		cert := &x509.Certificate{IsCA: c.ca}
		for _, text := range c.uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if _, err := control.IdentityFromCertificate(cert); (err == nil) != c.ok {
			t.Errorf("%v (CA %v): %v", c.uris, c.ca, err)
		}
	}
}

func TestOnlyP256KeysAreCertified(t *testing.T) {
	e, _ := create(t)
	for name, pub := range map[string][]byte{"P-384": publicKey(t, elliptic.P384()), "garbage": {1, 2}, "none": nil} {
		_, err := e.Issue(t.Context(), Request{Role: control.RoleClient, ID: key.NewID(), PublicKey: pub}, time.Hour)
		if !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAuthorityIsNeverOverwritten(t *testing.T) {
	e, dir := create(t)
	if _, err := Create(dir, "other", time.Now()); !errors.Is(err, ErrExists) {
		t.Errorf("second Create: %v", err)
	}
	again, err := Load(dir, "ctl.example")
	if err != nil || !again.Root().Equal(e.Root()) {
		t.Errorf("Load: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	other, otherDir := create(t)
	_ = other
	b, _ := os.ReadFile(filepath.Join(otherDir, rootFile))
	if err := os.WriteFile(filepath.Join(dir, rootFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, "ctl.example"); !errors.Is(err, ErrDamaged) {
		t.Errorf("another authority's root: %v", err)
	}
}

func TestWhatACertificateSays(t *testing.T) {
	e, _ := create(t)
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	seen := make(map[string]bool)
	for role, want := range map[control.Role][]x509.ExtKeyUsage{
		control.RoleClient: {client}, control.RoleHost: {server, client}, control.RoleController: {server},
	} {
		cert := issue(t, e, role, key.NewID())
		if !slices.Equal(cert.ExtKeyUsage, want) || len(cert.UnknownExtKeyUsage) > 0 {
			t.Errorf("%s: extended key usage %v, want %v", role, cert.ExtKeyUsage, want)
		}
		if cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: CA %v, key usage %v", role, cert.IsCA, cert.KeyUsage)
		}
		if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || len(cert.URIs) != 1 {
			t.Errorf("%s: names beside the identity", role)
		}
		for _, x := range cert.Extensions {
			if x.Id.Equal([]int{2, 5, 29, 15}) && !x.Critical {
				t.Errorf("%s: key usage is not critical", role)
			}
		}
		if n := cert.SerialNumber; n.BitLen() != 129 || seen[n.String()] {
			t.Errorf("%s: serial %v of %d bits", role, n, n.BitLen())
		}
		seen[cert.SerialNumber.String()] = true
	}
}

func TestACertificateNeverOutlivesItsAuthority(t *testing.T) {
	e, _ := create(t)
	r := Request{Role: control.RoleHost, ID: key.NewID(), PublicKey: publicKey(t, elliptic.P256())}
	chain, err := e.Issue(t.Context(), r, 100*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil || cert.NotAfter.After(e.Root().NotAfter) || cert.NotBefore.Before(e.Root().NotBefore) {
		t.Errorf("%v to %v, the root ends %v; %v", cert.NotBefore, cert.NotAfter, e.Root().NotAfter, err)
	}
	e.now = func() time.Time { return e.Root().NotAfter }
	if _, err := e.Issue(t.Context(), r, time.Hour); !errors.Is(err, ErrExpired) {
		t.Errorf("issued by an expired authority: %v", err)
	}
}

func TestNonsenseIsNotCertified(t *testing.T) {
	e, _ := create(t)
	good := Request{Role: control.RoleHost, ID: key.NewID(), PublicKey: publicKey(t, elliptic.P256())}
	for _, c := range []struct {
		change   func(*Request)
		lifetime time.Duration
		want     error
	}{
		{func(r *Request) { r.ID = key.ID{} }, time.Hour, ErrID},
		{func(r *Request) { r.Role = "admin" }, time.Hour, control.ErrRole},
		{func(r *Request) { r.Role = "" }, time.Hour, control.ErrRole},
		{func(*Request) {}, 0, ErrLifetime},
		{func(*Request) {}, -time.Hour, ErrLifetime},
	} {
		r := good
		c.change(&r)
		if chain, err := e.Issue(t.Context(), r, c.lifetime); !errors.Is(err, c.want) || chain != nil {
			t.Errorf("%+v for %s: %v, want %v", r, c.lifetime, err, c.want)
		}
	}
}

// A holder of a certificate must not be able to make more of them.
func TestACertificateSignedByALeafIsRefused(t *testing.T) {
	e, _ := create(t)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Role: control.RoleHost, ID: key.NewID(), PublicKey: public}
	chain, err := e.Issue(t.Context(), r, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	mallory := &Embedded{name: "ctl.example", key: k, root: leaf, now: time.Now}
	forged := issue(t, mallory, control.RoleClient, key.NewID())
	for _, presented := range [][]*x509.Certificate{{forged, leaf}, {forged, leaf, e.Root()}, {forged}} {
		_, err := control.VerifyPeer(presented, pool(e), time.Now(), control.RoleClient)
		if !errors.Is(err, control.ErrPeerCertificate) {
			t.Errorf("chain of %d: %v", len(presented), err)
		}
	}
}

// An identity alone is not enough: the certificate must be made for that use.
func TestACertificateForAnotherUseIsRefused(t *testing.T) {
	e, _ := create(t)
	for role, usage := range map[control.Role]x509.ExtKeyUsage{
		control.RoleClient:     x509.ExtKeyUsageServerAuth,
		control.RoleHost:       x509.ExtKeyUsageClientAuth,
		control.RoleController: x509.ExtKeyUsageClientAuth,
	} {
		good := issue(t, e, role, key.NewID())
		template := &x509.Certificate{
			SerialNumber: serial(), NotBefore: good.NotBefore, NotAfter: good.NotAfter,
			KeyUsage: good.KeyUsage, ExtKeyUsage: []x509.ExtKeyUsage{usage}, URIs: good.URIs,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, e.root, good.PublicKey, e.key)
		if err != nil {
			t.Fatal(err)
		}
		bad, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = control.VerifyPeer([]*x509.Certificate{bad}, pool(e), time.Now(), role)
		if !errors.Is(err, control.ErrPeerCertificate) {
			t.Errorf("%s with usage %v: %v", role, usage, err)
		}
	}
}

func TestTheAuthorityItselfIsNobody(t *testing.T) {
	e, _ := create(t)
	chain := []*x509.Certificate{e.Root()}
	for _, role := range []control.Role{control.RoleClient, control.RoleHost, control.RoleController} {
		if got, err := control.VerifyPeer(chain, pool(e), time.Now(), role); err == nil {
			t.Errorf("the root passes as %v", got)
		}
	}
	if _, err := control.VerifyPeer(nil, pool(e), time.Now(), control.RoleHost); err == nil {
		t.Error("no certificate passes")
	}
	if _, err := control.VerifyPeer(chain, nil, time.Now(), control.RoleHost); err == nil {
		t.Error("without roots, the machine's would count")
	}
}

func TestOfTwoWhoCreateAnAuthorityOneSucceeds(t *testing.T) {
	dir := t.TempDir()
	const attempts = 8
	made := make(chan *Embedded, attempts)
	var all sync.WaitGroup
	for range attempts {
		all.Go(func() {
			e, err := Create(dir, "ctl.example", time.Now())
			if err == nil {
				made <- e
			} else if !errors.Is(err, ErrExists) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(made) != 1 {
		t.Fatalf("%d authorities made", len(made))
	}
	e := <-made
	if again, err := Load(dir, "ctl.example"); err != nil || !again.Root().Equal(e.Root()) {
		t.Errorf("what was made is not what is there: %v", err)
	}
}

func TestAnAuthorityIsOpenedAsItWasMadeOrNotAtAll(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		want   error
	}{
		"a key that others may read": {func(dir string) error {
			return os.Chmod(filepath.Join(dir, keyFile), 0o640)
		}, atomicfile.ErrNotPrivate},
		"a key cut short": {func(dir string) error {
			return os.Truncate(filepath.Join(dir, keyFile), 100)
		}, ErrDamaged},
		"an empty root": {func(dir string) error {
			return os.Truncate(filepath.Join(dir, rootFile), 0)
		}, ErrDamaged},
		"no key": {func(dir string) error {
			return os.Remove(filepath.Join(dir, keyFile))
		}, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			_, dir := create(t)
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir, "ctl.example"); !errors.Is(err, c.want) {
				t.Errorf("Load: %v, want %v", err, c.want)
			}
			if _, err := Create(dir, "ctl.example", time.Now()); !errors.Is(err, ErrExists) {
				t.Errorf("Create: %v, want %v", err, ErrExists)
			}
		})
	}
	_, dir := create(t)
	if _, err := Load(dir, "other.example"); !errors.Is(err, ErrName) {
		t.Errorf("under another name: %v", err)
	}
}

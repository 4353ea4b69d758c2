package controller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/authority"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// dialAs knocks as one identity and shows the certificate given.
func (h *house) dialAs(who *control.Enrolled, cert *tls.Certificate) error {
	h.t.Helper()
	client, err := control.Dial(h.ctx(), control.DialConfig{
		Knock: who.KnockConfig(spa.KindControl), Certificate: cert, Roots: who.Roots(),
	})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Services(h.ctx())
	return err
}

func TestACertificateServesOnlyWhoKnocked(t *testing.T) {
	s := newScene(t)
	other := s.enroll(control.RoleClient, "eve", "evil")
	if err := s.dialAs(s.device, s.device.TLSCertificate()); err != nil {
		t.Fatalf("its own: %v", err)
	}
	for name, cert := range map[string]*tls.Certificate{
		"another device's": other.TLSCertificate(),
		"a host's":         s.hostID.TLSCertificate(),
		"none":             nil,
		"another authority's, with the right identity": s.forged(s.device.ID),
	} {
		if err := s.dialAs(s.device, cert); err == nil {
			t.Errorf("%s certificate served", name)
		}
	}
}

// forged is a certificate that says what it should, by an authority of one's own.
func (h *house) forged(id key.ID) *tls.Certificate {
	h.t.Helper()
	a, err := authority.Create(h.t.TempDir(), "gate.test", time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return issued(h.t, a, id, control.RoleClient, time.Hour)
}

func issued(t *testing.T, a authority.Authority, id key.ID, role control.Role, life time.Duration) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Issue(context.Background(), authority.Request{Role: role, ID: id, PublicKey: public}, life)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: k}
}

// TestAReplacedKeyIsWorthNothing: a certificate of the right authority, for the
// right identity, but not for its registered key.
func TestAReplacedKeyIsWorthNothing(t *testing.T) {
	s := newScene(t)
	if err := s.dialAs(s.device, issued(t, s.authority, s.device.ID, control.RoleClient, time.Hour)); err == nil {
		t.Error("a certificate for another key than the registered one served")
	}
}

func TestAJoinTokenEnrolsOneMachineOnce(t *testing.T) {
	h := newHouse(t)
	token := h.token(control.RoleClient, "ana", "laptop")
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	request, err := control.NewEnrollRequest(k, token.Token, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(r control.EnrollRequest) (control.EnrollResponse, error) {
		client, err := control.Dial(h.ctx(), token.DialConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		return client.Enroll(h.ctx(), r)
	}
	first, err := enroll(request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := enroll(request) // its first answer was lost
	if err != nil || again.ID != first.ID || again.KnockSecret != first.KnockSecret {
		t.Errorf("asked again with the same key: %v, or another identity", err)
	}
	thief, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	request, _ = control.NewEnrollRequest(thief, token.Token, "thief")
	if _, err := enroll(request); err == nil {
		t.Error("a used token enrolled another key")
	}
	unsigned := request
	unsigned.Signature = []byte("no signature")
	var status *control.StatusError
	if _, err := enroll(unsigned); !errors.As(err, &status) || status.Status != 400 {
		t.Errorf("without proof of the key: got %v, want status 400", err)
	}
}

func TestAJoinerCanEnrolAndNothingElse(t *testing.T) {
	s := newScene(t)
	token := s.token(control.RoleClient, "ana", "")
	client, err := control.Dial(s.ctx(), token.DialConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Services(s.ctx()); err == nil {
		t.Error("a joiner saw services")
	}
	other := s.token(control.RoleClient, "eve", "")
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	request, _ := control.NewEnrollRequest(k, other.Token, "")
	if _, err := client.Enroll(s.ctx(), request); err == nil {
		t.Error("a joiner enrolled by another token than the one that knocked")
	}
	if err := s.RevokeToken(s.ctx(), token.Token); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Done():
	case <-time.After(patience):
		t.Error("a withdrawn token keeps its connection")
	}
	dial := token.DialConfig()
	dial.Knock.Timeout = silence
	if _, err := control.Dial(s.ctx(), dial); !errors.Is(err, control.ErrNoAnswer) {
		t.Errorf("a withdrawn token: got %v, want silence", err)
	}
}

func TestEachListIsItsCallersOwn(t *testing.T) {
	s := newScene(t)
	s.addService("db")
	s.addGrant("eve", "db")
	eve := s.enroll(control.RoleClient, "eve", "evil")
	s.open()
	for _, c := range []struct {
		who      *control.Enrolled
		services []string
		sessions int
	}{{s.device, []string{"ssh"}, 1}, {eve, []string{"db"}, 0}} {
		client, err := c.who.Dial(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		services, err := client.Services(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, v := range services.Services {
			names = append(names, v.Name)
		}
		sessions, err := client.Sessions(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(names, c.services) || len(sessions.Sessions) != c.sessions {
			t.Errorf("%s sees %v and %d sessions", c.who.Name, names, len(sessions.Sessions))
		}
		client.Close()
	}
}

// What a person may not reach stays hidden, unless an administrator lists it.
func TestOnlyAListedServiceIsNamedToThoseWithoutAGrant(t *testing.T) {
	s := newScene(t)
	s.addService("hidden")
	if _, err := s.AddService(s.ctx(), api.ServiceRequest{Name: "wiki", Host: "web", Target: "127.0.0.1:80", Listed: true}); err != nil {
		t.Fatal(err)
	}
	client, err := s.device.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got, err := client.Services(s.ctx())
	if err != nil || len(got.Services) != 1 || len(got.Others) != 1 || got.Others[0].Name != "wiki" || got.Others[0].Reason != "not granted to ana" {
		t.Errorf("%+v, %v", got, err)
	}
	s.addGrant("ana", "wiki")
	got, err = client.Services(s.ctx())
	if err != nil || len(got.Services) != 2 || len(got.Others) != 0 {
		t.Errorf("once it is granted: %+v, %v", got, err)
	}
}

func TestAClientGetsNoAgentStreamAndAHostNoServices(t *testing.T) {
	s := newScene(t)
	client, err := s.device.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stream, err := client.Agent(s.ctx())
	if err == nil {
		if _, err = stream.Recv(); err == nil {
			t.Error("a client got the orders of a host")
		}
		stream.Close()
	}
	host, err := s.hostID.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if _, err := host.Services(s.ctx()); err == nil {
		t.Error("a host saw a client's list")
	}
}

func TestARenewalGivesAFreshCertificate(t *testing.T) {
	s := newScene(t)
	client, err := s.device.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	before := s.device.Leaf().SerialNumber
	if err := s.device.Renew(s.ctx(), client); err != nil {
		t.Fatal(err)
	}
	if s.device.Leaf().SerialNumber.Cmp(before) == 0 {
		t.Error("the certificate is the old one")
	}
	if err := s.dialAs(s.device, s.device.TLSCertificate()); err != nil {
		t.Errorf("with the fresh certificate: %v", err)
	}
}

// TestAnExpiredCertificateCanBeRenewedOnly: a laptop that was off for a week is
// not locked out, and gets no further than to a fresh certificate.
func TestAnExpiredCertificateCanBeRenewedOnly(t *testing.T) {
	s := newScene(t)
	m, _ := s.directory.machine(s.device.ID)
	server := &api.Server{Broker: broker{s.Controller}, Log: discard()}
	chain, err := s.authority.Issue(context.Background(), authority.Request{
		Role: control.RoleClient, ID: m.ID, PublicKey: m.PublicKey,
	}, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	caller, err := server.Authenticate(m.ID, []*x509.Certificate{leaf})
	if err != nil || !caller.Expired {
		t.Fatalf("got %+v, %v, want an expired caller", caller.Expired, err)
	}
}

// TestNoSecretIsLogged plays a whole life at debug level and looks for every
// secret in what was logged.
func TestNoSecretIsLogged(t *testing.T) {
	s := newScene(t)
	made, err := s.CreateToken(s.ctx(), api.TokenRequest{
		Role: control.RoleClient, User: "ana", Expires: control.Duration(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	grant, order := s.open()
	if _, err := s.RevokeSession(s.ctx(), grant.Session); err != nil {
		t.Fatal(err)
	}
	s.restart()
	device, _ := s.directory.machine(s.device.ID)
	secrets := []string{
		strings.TrimPrefix(made.Text, "postern-join:")[:40],
		made.Invitation[len(made.Invitation)/2:],
		strings.TrimPrefix(order.Knock.Reveal(), "postern-host-knock-secret:"),
		strings.TrimPrefix(device.Knock.Reveal(), "postern-knock-secret:"),
		strings.TrimPrefix(s.private.Reveal(), "postern-controller-private:"),
	}
	logged := strings.ToLower(s.logs.String())
	if !strings.Contains(logged, grant.Session.String()) {
		t.Fatal("the log does not even name the session")
	}
	for i, secret := range secrets {
		if strings.Contains(logged, strings.ToLower(secret)) {
			t.Errorf("secret %d is in the log", i)
		}
	}
}

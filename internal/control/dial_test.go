package control_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

func dialConfig(c *controltest.Controller) control.DialConfig {
	return control.DialConfig{Knock: c.KnockConfig(), Roots: c.Authority.Pool()}
}

func TestTheControlAPIIsReachedBehindTwoKnocks(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	client, err := control.Dial(t.Context(), dialConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	services, err := client.Services(t.Context())
	if err != nil || len(services.Services) != 1 || services.Services[0].Name != "echo" {
		t.Errorf("got %+v, %v", services, err)
	}
	client.Close()
	client.Close()
	if _, err := client.Services(t.Context()); err == nil {
		t.Error("a closed client answers")
	}
	<-client.Done()
}

// Only the granted controller, with the granted key, of the enrolled authority.
func TestAnotherEndThanTheGrantedIsRefused(t *testing.T) {
	now := time.Now()
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	for name, test := range map[string]struct {
		change func(c *controltest.Controller)
		want   error
	}{
		"another key than the pinned": {func(c *controltest.Controller) { c.Pin = &[32]byte{1} }, control.ErrOtherEnd},
		"another controller": {func(c *controltest.Controller) {
			c.Certificate = c.Authority.Server(control.RoleController, key.NewID(), from, to)
		}, control.ErrOtherEnd},
		"a host": {func(c *controltest.Controller) {
			c.Certificate = c.Authority.Server(control.RoleHost, c.ID, from, to)
		}, control.ErrRole},
		"an expired certificate": {func(c *controltest.Controller) {
			c.Certificate = c.Authority.Server(control.RoleController, c.ID, from, now.Add(-time.Minute))
		}, control.ErrPeerCertificate},
		"another authority": {func(c *controltest.Controller) {
			c.Certificate = controltest.NewAuthority(t).Server(control.RoleController, c.ID, from, to)
		}, control.ErrPeerCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.NoLeak(t)
			c := controltest.New(t)
			c.Set(test.change)
			client, err := control.Dial(t.Context(), dialConfig(c))
			if err == nil {
				client.Close()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// A joiner knows no authority yet, only the pin of its root.
func TestAJoinerTrustsThePinnedRootOnly(t *testing.T) {
	c := controltest.New(t)
	token := c.Token(control.RoleClient)
	client, err := control.Dial(t.Context(), token.DialConfig())
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	token.RootPin = [32]byte{1}
	if _, err = control.Dial(t.Context(), token.DialConfig()); !errors.Is(err, control.ErrPeerCertificate) {
		t.Errorf("wrong pin: got %v, want %v", err, control.ErrPeerCertificate)
	}
	// The pinned key must sign the leaf, not be it.
	token.RootPin = control.PublicKeyPin(c.Certificate.Leaf)
	if _, err = control.Dial(t.Context(), token.DialConfig()); !errors.Is(err, control.ErrPeerCertificate) {
		t.Errorf("pin of the leaf: got %v, want %v", err, control.ErrPeerCertificate)
	}
}

func TestRefusalsAndNonsenseOfTheAPIAreErrors(t *testing.T) {
	c := controltest.New(t)
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	client, err := control.Dial(t.Context(), dialConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"refused":  {answer(403, `{"error":"not\u001b[31m you"}`), "the controller answered 403: not [31m you"},
		"no text":  {answer(500, `oops`), "500: Internal Server Error"},
		"nonsense": {answer(200, `{`), control.ErrAnswer.Error()},
		"too long": {answer(200, `"`+strings.Repeat("x", control.MaxBody)+`"`), control.ErrTooLong.Error()},
	} {
		c.Handle(control.PathServices, test.handler)
		if _, err := client.Services(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, test.want)
		}
	}
}

func TestTheAgentStreamCarriesBothWaysAtOnce(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	got := make(chan control.FromHost, 4)
	ended := make(chan struct{})
	c.Handle(control.PathAgent, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		lines := control.NewLines(r.Body)
		send := func(m control.ToHost) {
			b, _ := control.EncodeLine(nil, m)
			w.Write(b)
			w.(http.Flusher).Flush()
		}
		hello, err := lines.FromHost() // before the header is out: the stream must not wait for it
		if err != nil {
			t.Error(err)
		}
		got <- hello
		send(control.ToHost{Number: 1, Ping: &control.Ping{}})
		ack, err := lines.FromHost()
		if err != nil {
			t.Error(err)
		}
		got <- ack
		io.WriteString(w, "{\"number\":2}\n") // no order at all
		w.(http.Flusher).Flush()
		_, err = lines.FromHost()
		if err == nil {
			t.Error("the stream did not end")
		}
	})
	client, err := control.Dial(t.Context(), dialConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stream, err := client.Agent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(control.FromHost{Hello: &control.Hello{Port: 4042}}); err != nil {
		t.Fatal(err)
	}
	order, err := stream.Recv()
	if err != nil || order.Ping == nil || order.Number != 1 {
		t.Fatalf("got %+v, %v", order, err)
	}
	if err := stream.Send(control.FromHost{Ack: &control.Ack{Number: 1}}); err != nil {
		t.Fatal(err)
	}
	if hello, ack := <-got, <-got; hello.Hello.Port != 4042 || ack.Ack.Number != 1 {
		t.Errorf("the controller got %+v and %+v", hello, ack)
	}
	if _, err := stream.Recv(); !errors.Is(err, control.ErrMessage) {
		t.Errorf("got %v, want %v", err, control.ErrMessage)
	}
	stream.Close()
	stream.Close()
	if err := stream.Send(control.FromHost{Ack: &control.Ack{}}); err == nil {
		t.Error("a closed stream sends")
	}
	<-ended
}

func TestARefusedAgentStreamSaysSo(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.Handle(control.PathAgent, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		json.NewEncoder(w).Encode(control.ErrorResponse{Error: "for hosts only"})
	})
	client, err := control.Dial(t.Context(), dialConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stream, err := client.Agent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for range 2 {
		if _, err := stream.Recv(); !isStatus(err, http.StatusForbidden) {
			t.Errorf("got %v, want the refusal", err)
		}
	}
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*control.StatusError](err)
	return ok && e.Status == status
}

func TestABrokenConnectionWakesTheAgentStream(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.Handle(control.PathAgent, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	client, err := control.Dial(t.Context(), dialConfig(c))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.Agent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	received := make(chan error)
	go func() {
		_, err := stream.Recv()
		received <- err
	}()
	client.Close()
	if err := <-received; err == nil {
		t.Error("Recv returned no error")
	}
}

func TestLinesAreBounded(t *testing.T) {
	long := control.NewLines(strings.NewReader(`{"hello":{"version":"` + strings.Repeat("x", control.MaxBody) + `"}}`))
	if _, err := long.FromHost(); !errors.Is(err, control.ErrTooLong) {
		t.Errorf("got %v, want %v", err, control.ErrTooLong)
	}
	for _, bad := range []string{
		`{"hello":{},"ack":{"number":1}}`, `{}`, `nonsense`, `{"ack":{"number":-1}}`, `[]`,
	} {
		m, err := control.NewLines(strings.NewReader(bad + "\n")).FromHost()
		if !errors.Is(err, control.ErrMessage) || m != (control.FromHost{}) {
			t.Errorf("%s: got %+v, %v", bad, m, err)
		}
	}
	if _, err := control.NewLines(strings.NewReader("\n\n")).ToHost(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"number":1,"sync":{"now":"2026-01-01T00:00:00Z","sessions":[]}}` + "\n"))
	f.Add([]byte(`{"hello":{"version":"v1","port":4042,"sessions":null}}` + "\n" + `{"ack":{"number":7}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := control.NewLines(strings.NewReader(string(b)))
		for {
			m, err := lines.FromHost()
			if err != nil {
				if m != (control.FromHost{}) {
					t.Errorf("a message beside the error %v", err)
				}
				return
			}
		}
	})
}

// A request signed for one token, or by another key, is worth nothing.
func TestRequestsAreSignedByTheirKeyForTheirID(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := key.NewID()
	enroll, err := control.NewEnrollRequest(private, token, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := control.VerifyEnroll(enroll); err != nil || !got.Equal(&private.PublicKey) {
		t.Fatalf("got %v, %v", got, err)
	}
	other := enroll
	other.Token = key.NewID()
	if _, err := control.VerifyEnroll(other); !errors.Is(err, control.ErrSignature) {
		t.Errorf("other token: got %v", err)
	}
	// The same key and id, signed for another purpose.
	renew := control.RenewRequest{PublicKey: enroll.PublicKey, Signature: enroll.Signature}
	if _, err := control.VerifyRenew(token, renew); !errors.Is(err, control.ErrSignature) {
		t.Errorf("other purpose: got %v", err)
	}
	if renew, err = control.NewRenewRequest(private, token); err != nil {
		t.Fatal(err)
	}
	if _, err := control.VerifyRenew(token, renew); err != nil {
		t.Error(err)
	}
	if _, err := control.VerifyRenew(key.NewID(), renew); !errors.Is(err, control.ErrSignature) {
		t.Errorf("other identity: got %v", err)
	}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.NewRenewRequest(large, token); !errors.Is(err, control.ErrPublicKey) {
		t.Errorf("P-384: got %v", err)
	}
}

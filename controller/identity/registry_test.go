package identity

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/controller/store/bolt"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func newRegistry(t *testing.T) *Registry {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return New(s)
}

func token(t *testing.T, r *Registry, q TokenRequest) Token {
	t.Helper()
	if q.Lifetime == 0 {
		q.Lifetime = 15 * time.Minute
	}
	tok, err := r.CreateToken(q, now)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func enroll(t *testing.T, r *Registry, role control.Role, name string) Machine {
	t.Helper()
	q := TokenRequest{Role: role, Name: name}
	if role == control.RoleClient {
		q.User = "alice"
	}
	m, err := r.Redeem(token(t, r, q).ID, "x", []byte("key of "+name), now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestATokenServesOnceAndForgivesALostAnswer(t *testing.T) {
	r := newRegistry(t)
	tok := token(t, r, TokenRequest{Role: control.RoleClient, User: "alice"})
	first, err := r.Redeem(tok.ID, "Alice's Laptop", []byte("k1"), now)
	if err != nil {
		t.Fatal(err)
	}
	if first.Name != "alice-s-laptop" || first.User != "alice" || first.Knock.IsZero() {
		t.Errorf("made %+v", first)
	}
	again, err := r.Redeem(tok.ID, "whatever", []byte("k1"), now.Add(time.Minute))
	if err != nil || again.ID != first.ID || !again.Knock.Equal(first.Knock) {
		t.Errorf("the same key again: %v, %v", again.ID, err)
	}
	if _, err := r.Redeem(tok.ID, "thief", []byte("k2"), now); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("another key: %v", err)
	}
	if _, err := r.Redeem(tok.ID, "late", []byte("k1"), tok.Expires); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("the same key after the expiry: %v", err)
	}
	if _, err := r.Revoke(first.ID, now); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Redeem(tok.ID, "x", []byte("k1"), now); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("after the machine's revocation: %v", err)
	}
}

func TestOfManyJoinersOneGetsIn(t *testing.T) {
	r := newRegistry(t)
	tok := token(t, r, TokenRequest{Role: control.RoleHost})
	var wg sync.WaitGroup
	var mu sync.Mutex
	in := 0
	for i := range 8 {
		wg.Go(func() {
			if _, err := r.Redeem(tok.ID, "h", fmt.Append(nil, i), now); err == nil {
				mu.Lock()
				in++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if in != 1 {
		t.Errorf("%d joiners got in, want 1", in)
	}
}

func TestWhatATokenAsksForIsChecked(t *testing.T) {
	r := newRegistry(t)
	for _, c := range []struct {
		q    TokenRequest
		want error
	}{
		{TokenRequest{Role: "controller", Lifetime: time.Hour}, ErrRole},
		{TokenRequest{Role: control.RoleClient, Lifetime: time.Hour}, ErrUser},
		{TokenRequest{Role: control.RoleHost, User: "alice", Lifetime: time.Hour}, ErrUser},
		{TokenRequest{Role: control.RoleClient, User: "Alice!", Lifetime: time.Hour}, ErrName},
		{TokenRequest{Role: control.RoleHost, Name: "a b", Lifetime: time.Hour}, ErrName},
		{TokenRequest{Role: control.RoleHost, Lifetime: time.Second}, ErrLifetime},
		{TokenRequest{Role: control.RoleHost, Lifetime: 31 * 24 * time.Hour}, ErrLifetime},
	} {
		if _, err := r.CreateToken(c.q, now); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.q, err, c.want)
		}
	}
}

func TestAWithdrawnOrExpiredTokenIsUnknown(t *testing.T) {
	r := newRegistry(t)
	a := token(t, r, TokenRequest{Role: control.RoleHost})
	b := token(t, r, TokenRequest{Role: control.RoleHost})
	if err := r.RevokeToken(a.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Redeem(a.ID, "h", []byte("k"), now); !errors.Is(err, ErrUnknown) {
		t.Errorf("withdrawn: %v", err)
	}
	gone, err := r.ForgetTokens(b.Expires)
	if err != nil || len(gone) != 1 || gone[0] != b.ID {
		t.Errorf("forgot %v, %v", gone, err)
	}
}

func TestARevokedMachineKeepsItsRecordAndLosesItsSecret(t *testing.T) {
	r := newRegistry(t)
	m := enroll(t, r, control.RoleClient, "laptop")
	if revoked, err := r.Revoke(m.ID, now); err != nil || !revoked.Knock.IsZero() {
		t.Fatalf("revoked: %+v, %v", revoked, err)
	}
	got, err := r.Machine(m.ID)
	if err != nil || got.Revoked.IsZero() || !got.Knock.IsZero() {
		t.Errorf("record: %+v, %v", got, err)
	}
	if _, err := r.Live(m.ID); !errors.Is(err, ErrRevoked) {
		t.Errorf("Live: %v", err)
	}
	if _, err := r.Find(control.RoleClient, "laptop"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Find: %v", err)
	}
	if again := enroll(t, r, control.RoleClient, "laptop"); again.ID == m.ID {
		t.Error("the name's next owner has the old id")
	}
	if err := r.Rekey(m.ID, []byte("new")); !errors.Is(err, ErrRevoked) {
		t.Errorf("Rekey: %v", err)
	}
}

func TestAServiceHasALiveHostAndATarget(t *testing.T) {
	r := newRegistry(t)
	host := enroll(t, r, control.RoleHost, "web1")
	device := enroll(t, r, control.RoleClient, "laptop")
	for _, c := range []struct {
		s    Service
		want error
	}{
		{Service{Name: "ssh", Host: key.NewID(), Target: "127.0.0.1:22"}, ErrUnknown},
		{Service{Name: "ssh", Host: device.ID, Target: "127.0.0.1:22"}, ErrUnknown},
		{Service{Name: "SSH", Host: host.ID, Target: "127.0.0.1:22"}, ErrName},
		{Service{Name: strings.Repeat("s", 64), Host: host.ID, Target: "127.0.0.1:22"}, ErrName},
		{Service{Name: "ssh", Host: host.ID, Target: "127.0.0.1"}, ErrTarget},
		{Service{Name: "ssh", Host: host.ID, Target: "127.0.0.1:0"}, ErrTarget},
		{Service{Name: "ssh", Host: host.ID, Target: ":22"}, ErrTarget},
		{Service{Name: "ssh", Host: host.ID, Target: "127.0.0.1:22"}, nil},
		{Service{Name: "ssh", Host: host.ID, Target: "127.0.0.1:22"}, ErrTaken},
	} {
		if err := r.AddService(c.s); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.s, err, c.want)
		}
	}
	if _, err := r.Revoke(host.ID, now); !errors.Is(err, ErrHasServices) {
		t.Errorf("revoke a host with services: %v", err)
	}
	if err := r.RemoveService("ssh"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Revoke(host.ID, now); err != nil {
		t.Error(err)
	}
}

func TestEverythingSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m := enroll(t, New(s), control.RoleHost, "web1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = bolt.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := New(s).Find(control.RoleHost, "web1")
	if err != nil || got.ID != m.ID || !got.Knock.Equal(m.Knock) {
		t.Errorf("got %v, %v", got.ID, err)
	}
}

func TestAMachineCannotTakeAnothersIDForAName(t *testing.T) {
	r := newRegistry(t)
	victim := enroll(t, r, control.RoleClient, "laptop")
	tok := token(t, r, TokenRequest{Role: control.RoleClient, User: "mallory"})
	for _, proposed := range []string{victim.ID.String(), strings.ToUpper(victim.ID.String())} {
		m, err := r.Redeem(tok.ID, proposed, []byte("k"), now)
		if err != nil || m.Name == victim.ID.String() {
			t.Errorf("proposed %s: named %q, %v", proposed, m.Name, err)
		}
	}
	if found, err := r.Find(control.RoleClient, victim.ID.String()); err != nil || found.ID != victim.ID {
		t.Errorf("by the victim's id: %s, %v", found.Name, err)
	}
	q := TokenRequest{Role: control.RoleHost, Name: victim.ID.String(), Lifetime: time.Hour}
	if _, err := r.CreateToken(q, now); !errors.Is(err, ErrName) {
		t.Errorf("a token for such a name: %v", err)
	}
}

func TestWhateverAJoinerCallsItselfItsNameIsOne(t *testing.T) {
	r := newRegistry(t)
	seen := make(map[string]bool)
	for i, proposed := range []string{
		"", "-", "...", "Alice's MacBook", "\x1b[2J\x00", strings.Repeat("x", 1000), "ж", "a b", "a b", "MACHINE",
		strings.Repeat("x", 1000), strings.Repeat("-", 1000) + "a",
	} {
		tok := token(t, r, TokenRequest{Role: control.RoleClient, User: "alice"})
		m, err := r.Redeem(tok.ID, proposed, fmt.Append(nil, i), now)
		if err != nil || CheckName(m.Name) != nil || seen[m.Name] {
			t.Errorf("%.20q became %q, %v", proposed, m.Name, err)
		}
		seen[m.Name] = true
	}
}

func TestATargetIsOneAddressToDial(t *testing.T) {
	for target, ok := range map[string]bool{
		"127.0.0.1:22": true, "[::1]:22": true, "db.internal:5432": true, "[fe80::1%eth0]:22": true,
		"10.0.0.1:65535": true, "a_b.example:1": true,
		"": false, "22": false, "127.0.0.1": false, ":22": false, "127.0.0.1:": false, "127.0.0.1:0": false,
		"127.0.0.1:65536": false, "127.0.0.1:+22": false, "127.0.0.1:ssh": false, "::1:22": false,
		"0.0.0.0:22": false, "[::]:22": false, "224.0.0.1:22": false, "255.255.255.255:22": false,
		"a b:22": false, "a\n:22": false, "-v:22": false, "http://a:22": false, "a/b:22": false,
		strings.Repeat("a", 254) + ":22": false,
	} {
		if err := checkTarget(target); (err == nil) != ok {
			t.Errorf("%.40q: %v", target, err)
		}
	}
}

func TestNoKnockSecretIsPrinted(t *testing.T) {
	r := newRegistry(t)
	tok := token(t, r, TokenRequest{Role: control.RoleHost, Name: "web1"})
	m, err := r.Redeem(tok.ID, "", []byte("k"), now)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for _, v := range []any{tok, m, storedToken{tok, secret{tok.Knock}}, storedMachine{m, &secret{m.Knock}}, r} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&shown, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "v", v)
	}
	for _, v := range []any{tok, m} { // the stored forms are for the store
		if err := json.NewEncoder(&shown).Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []key.Knock{tok.Knock, m.Knock} {
		raw := k.RevealBytes()
		for _, form := range []string{
			hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw), strings.Trim(fmt.Sprint(raw), "[]"),
		} {
			if strings.Contains(strings.ToLower(shown.String()), strings.ToLower(form)) {
				t.Errorf("printed: %s", form)
			}
		}
	}
}

// failing is a store whose updates do everything but commit.
type failing struct{ store.Store }

var errDisk = errors.New("no space left on device")

func (f failing) Update(do func(store.Tx) error) error {
	return f.Store.Update(func(tx store.Tx) error { return errors.Join(do(tx), errDisk) })
}

func TestWhatIsNotWrittenIsNotAcknowledged(t *testing.T) {
	r := newRegistry(t)
	tok := token(t, r, TokenRequest{Role: control.RoleHost})
	full := New(failing{r.store})
	if m, err := full.Redeem(tok.ID, "web1", []byte("k"), now); !errors.Is(err, errDisk) || !m.ID.IsZero() {
		t.Errorf("redeemed: %v, %v", m.ID, err)
	}
	if all, err := r.Machines(control.RoleHost); err != nil || len(all) != 0 {
		t.Errorf("half an enrolment: %v, %v", all, err)
	}
	// The token is as good as before, also for another key.
	m, err := r.Redeem(tok.ID, "web1", []byte("k2"), now)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := full.Revoke(m.ID, now); !errors.Is(err, errDisk) || !got.ID.IsZero() {
		t.Errorf("revoked: %v, %v", got.ID, err)
	}
	if _, err := r.Live(m.ID); err != nil {
		t.Errorf("after a revocation that failed: %v", err)
	}
}

func TestARecordWithoutItsSecretIsDamageAndNoPanic(t *testing.T) {
	r := newRegistry(t)
	tok := token(t, r, TokenRequest{Role: control.RoleHost})
	m := enroll(t, r, control.RoleHost, "web1")
	err := r.store.Update(func(tx store.Tx) error {
		return errors.Join(store.Put(tx, tokenBucket, tok.ID.String(), tok),
			store.Put(tx, machineBucket, m.ID.String(), m))
	})
	if err != nil {
		t.Fatal(err)
	}
	_, errToken := r.Redeem(tok.ID, "web2", []byte("k"), now)
	_, errMachine := r.Machine(m.ID)
	_, errTokens := r.Tokens(now)
	_, errMachines := r.Machines(control.RoleHost)
	for _, err := range []error{errMachine, errTokens, errMachines} {
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("got %v, want %v", err, store.ErrCorrupt)
		}
	}
	if errToken == nil {
		t.Error("a damaged token was redeemed")
	}
}

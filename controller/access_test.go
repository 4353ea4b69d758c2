package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

func TestAnAccessIsOrderedFromTheHostAndGranted(t *testing.T) {
	s := newScene(t)
	grant, order := s.open()
	leaf := s.hostID.Leaf()
	if grant.Session != order.ID || !grant.Knock.Equal(order.Knock.HostKnock) {
		t.Error("client and host were told different sessions or secrets")
	}
	if grant.Pin != sha256.Sum256(leaf.RawSubjectPublicKeyInfo) || grant.Host != s.hostID.ID {
		t.Error("the grant does not name the host")
	}
	if len(grant.Addresses) != 1 || grant.Addresses[0] != loopback(4042) {
		t.Errorf("addresses %v, want the agent's own with its port", grant.Addresses)
	}
	if order.Device != s.device.ID || order.Service != "ssh" || order.Target != "127.0.0.1:22" ||
		order.Source != loopback(0).Addr() {
		t.Error("the order names another device, service, target or source")
	}
	if ttl := time.Duration(order.TTL); ttl > time.Hour || ttl < 59*time.Minute {
		t.Errorf("the order is for %s, policy says 1h", ttl)
	}
}

func TestTheShorterOfPolicyAndWishCounts(t *testing.T) {
	s := newScene(t)
	for asked, want := range map[time.Duration]time.Duration{
		time.Minute: time.Minute, 100 * time.Hour: time.Hour,
	} {
		answer, err := s.knock(s.device, "ssh", key.ID{}, asked)
		if err != nil {
			t.Fatal(err)
		}
		if got := answer.Grant.Deadline.Sub(answer.Time); got > want || got < want-5*time.Second {
			t.Errorf("asked for %s: granted %s, want %s", asked, got, want)
		}
	}
}

func TestTheUnknownAndTheForbiddenLookAlike(t *testing.T) {
	s := newScene(t)
	s.addService("db") // ana has no grant for it
	_, forbidden := s.knock(s.device, "db", key.ID{}, 0)
	_, unknown := s.knock(s.device, "nosuch", key.ID{}, 0)
	wantDenied(t, forbidden, spa.CodeNotGranted)
	wantDenied(t, unknown, spa.CodeNotGranted)
	if forbidden.Error() != unknown.Error() {
		t.Errorf("%q tells of a service that %q does not", forbidden, unknown)
	}
}

func TestAHostIsNoClient(t *testing.T) {
	s := newScene(t)
	s.addGrant("*", "ssh")
	_, err := s.knock(s.hostID, "ssh", key.ID{}, 0)
	wantDenied(t, err, spa.CodeNotGranted)
}

func TestNoGrantWithoutTheHost(t *testing.T) {
	s := newScene(t)
	s.agent.refuse <- "no such luck"
	_, err := s.knock(s.device, "ssh", key.ID{}, 0)
	wantDenied(t, err, spa.CodeHostOffline)
	refused := s.agent.next(t).Open
	s.closed(refused.ID) // what the host refused is not left half open

	close(s.agent.silent)
	_, err = s.knock(s.device, "ssh", key.ID{}, 0)
	wantDenied(t, err, spa.CodeHostOffline)

	s.agent.close()
	testkit.Eventually(t, patience, "the host to be offline", func() bool {
		return s.sessions.online(s.hostID.ID) == nil
	})
	_, err = s.knock(s.device, "ssh", key.ID{}, 0)
	wantDenied(t, err, spa.CodeHostOffline)
	if live, _ := s.AllSessions(s.ctx()); len(live) != 0 {
		t.Errorf("%d sessions live that no host confirmed", len(live))
	}
}

func TestARenewalKeepsTheSessionAndReplacesItsTime(t *testing.T) {
	s := newScene(t)
	first, _ := s.open()
	answer, err := s.knock(s.device, "ssh", first.Session, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	order := s.agent.next(t).Open
	if order == nil || order.ID != first.Session || answer.Grant.Session != first.Session {
		t.Fatal("the renewal made another session")
	}
	if ttl := time.Duration(order.TTL); ttl > 10*time.Minute || ttl < 9*time.Minute {
		t.Errorf("renewed for %s, want the 10m asked for", ttl)
	}
	if !answer.Grant.Knock.Equal(first.Knock) {
		t.Error("the renewal changed the host-knock secret under a live tunnel")
	}
	again, _ := s.open()
	if again.Session == first.Session {
		t.Error("a knock that does not renew got the old session")
	}
}

func TestNobodyRenewsOrClosesWhatIsNotTheirs(t *testing.T) {
	s := newScene(t)
	s.addService("db")
	s.addGrant("ana", "db")
	grant, _ := s.open()
	other := s.enroll(control.RoleClient, "ana", "phone")
	_, err := s.knock(other, "ssh", grant.Session, 0)
	wantDenied(t, err, spa.CodeUnknownSession)
	_, err = s.knock(s.device, "db", grant.Session, 0) // its own, for another service
	wantDenied(t, err, spa.CodeUnknownSession)
	k := other.KnockConfig(spa.KindClose)
	k.Session = grant.Session
	_, err = other.Knock(s.ctx(), k)
	wantDenied(t, err, spa.CodeUnknownSession)
	if live, _ := s.AllSessions(s.ctx()); len(live) != 1 {
		t.Errorf("%d sessions live, want the one", len(live))
	}
}

func TestARenewalIsJudgedAnew(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	if err := s.directory.book.Remove("ana", "ssh"); err != nil { // nobody was told yet
		t.Fatal(err)
	}
	if err := s.directory.compile(nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.knock(s.device, "ssh", grant.Session, 0)
	wantDenied(t, err, spa.CodeNotGranted)
}

func TestTheOwnerClosesByKnockAndByCall(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	k := s.device.KnockConfig(spa.KindClose)
	k.Session = grant.Session
	if _, err := s.device.Knock(s.ctx(), k); err != nil {
		t.Fatalf("close by knock: %v", err)
	}
	if reason := s.closed(grant.Session).Reason; reason != reasonOwner {
		t.Errorf("reason %q, want %q", reason, reasonOwner)
	}
	grant, _ = s.open()
	client, err := s.device.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.CloseSession(s.ctx(), grant.Session); err != nil {
		t.Fatalf("close by call: %v", err)
	}
	s.closed(grant.Session)
	records, err := s.readSessions()
	for _, r := range records {
		if r.Ended == "" || err != nil {
			t.Errorf("%v: the end of %s was acknowledged, and on disk it lives", err, r.ID)
		}
	}
}

// wantEndedOnDisk reads the store itself.
func (s *scene) wantEndedOnDisk(id key.ID) {
	s.t.Helper()
	records, err := s.readSessions()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range records {
		if r.ID == id && r.Ended != "" && r.Knock == nil {
			return
		}
	}
	s.t.Errorf("the end of %s was acknowledged and is not on disk", id)
}

func TestEveryRevocationCutsAtOnceAndIsWrittenFirst(t *testing.T) {
	cut := map[string]func(*scene, *spa.Grant) (api.Cut, error){
		"session": func(s *scene, g *spa.Grant) (api.Cut, error) { return s.RevokeSession(s.ctx(), g.Session) },
		"device":  func(s *scene, _ *spa.Grant) (api.Cut, error) { return s.RevokeDevice(s.ctx(), "laptop") },
		"service": func(s *scene, _ *spa.Grant) (api.Cut, error) { return s.RemoveService(s.ctx(), "ssh") },
		"grant": func(s *scene, _ *spa.Grant) (api.Cut, error) {
			return s.RemoveGrant(s.ctx(), api.GrantRequest{User: "ana", Service: "ssh"})
		},
	}
	for name, revoke := range cut {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			grant, _ := s.open()
			stalls := testkit.WatchStalls(t)
			start := time.Now()
			got, err := revoke(s, grant)
			if err != nil {
				t.Fatal(err)
			}
			if got.Sessions != 1 || !got.Confirmed {
				t.Errorf("got %+v, want one session, confirmed", got)
			}
			if took := time.Since(start); took > stalls.Within(time.Second) {
				t.Errorf("the host was told after %s, want a second at most", took)
			}
			if reason := s.closed(grant.Session).Reason; reason != reasonRevoked {
				t.Errorf("reason %q, want %q", reason, reasonRevoked)
			}
			s.wantEndedOnDisk(grant.Session)
		})
	}
}

func TestARevokedDeviceMeetsSilence(t *testing.T) {
	s := newScene(t)
	client, err := s.device.Dial(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Services(s.ctx()); err != nil { // the controller has the connection too
		t.Fatal(err)
	}
	if _, err := s.RevokeDevice(s.ctx(), "laptop"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Done():
	case <-time.After(patience):
		t.Error("the revoked device keeps its control connection")
	}
	k := s.device.KnockConfig(spa.KindAccess)
	k.Service, k.Timeout = "ssh", 300*time.Millisecond
	if _, err := s.device.Knock(s.ctx(), k); !errors.Is(err, control.ErrNoAnswer) {
		t.Errorf("a revoked device's knock: got %v, want no answer", err)
	}
}

func TestAShorterGrantShortensTheLiveSession(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	err := s.AddGrant(s.ctx(), api.GrantRequest{
		User: "ana", Service: "ssh", For: control.Duration(time.Minute),
	})
	if err != nil {
		t.Fatal(err)
	}
	order := s.agent.next(t).Open
	if order == nil || order.ID != grant.Session || time.Duration(order.TTL) > time.Minute {
		t.Error("the host was not told the shorter time")
	}
}

func TestASessionEndsAtItsDeadline(t *testing.T) {
	s := newScene(t)
	if _, err := s.knock(s.device, "ssh", key.ID{}, time.Second); err != nil {
		t.Fatal(err)
	}
	id := s.agent.next(t).Open.ID
	if reason := s.closed(id).Reason; reason != reasonExpired {
		t.Errorf("reason %q, want %q", reason, reasonExpired)
	}
	if live, _ := s.AllSessions(s.ctx()); len(live) != 0 {
		t.Errorf("%d sessions live past their deadline", len(live))
	}
}

func TestAHostEndsItsOwnSessionsOnly(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	other := s.house.agent(s.enroll(control.RoleHost, "", "other"))
	other.sync(t)
	ended := control.FromHost{Ended: &control.Ended{Session: grant.Session, Reason: "mine now"}}
	if err := other.stream.Send(ended); err != nil {
		t.Fatal(err)
	}
	_, err := s.AddService(s.ctx(), api.ServiceRequest{Name: "db", Host: "other", Target: "127.0.0.1:5432"})
	if err != nil {
		t.Fatal(err)
	}
	s.addGrant("ana", "db")
	// The acknowledgement of this order comes after the message above.
	if _, err := s.knock(s.device, "db", key.ID{}, 0); err != nil {
		t.Fatal(err)
	}
	if live, _ := s.AllSessions(s.ctx()); len(live) != 2 {
		t.Errorf("%d sessions live, want 2", len(live))
	}
	if err := s.agent.stream.Send(ended); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, "the host's end to count", func() bool {
		live, _ := s.AllSessions(s.ctx())
		return len(live) == 1
	})
}

// TestARevocationOvertakesAKnockInFlight: the host has the order and has not
// acknowledged it when the grant is taken back.
func TestARevocationOvertakesAKnockInFlight(t *testing.T) {
	s := newScene(t)
	close(s.agent.silent)
	denied := make(chan error, 1)
	go func() {
		k := s.device.KnockConfig(spa.KindAccess)
		k.Service = "ssh"
		_, err := s.device.Knock(context.Background(), k)
		denied <- err
	}()
	id := s.agent.next(t).Open.ID
	if _, err := s.RemoveGrant(s.ctx(), api.GrantRequest{User: "ana", Service: "ssh"}); err != nil {
		t.Fatal(err)
	}
	s.closed(id)
	wantDenied(t, <-denied, spa.CodeNotGranted)
	if live, _ := s.AllSessions(s.ctx()); len(live) != 0 {
		t.Errorf("%d sessions live without a grant", len(live))
	}
}

func TestAVerdictOfOldRulesOpensNothing(t *testing.T) {
	s := newScene(t)
	a := ask{device: s.device.ID, service: "ssh", source: loopback(0).Addr()}
	now := time.Now()
	v, ok := s.directory.judge(a.device, a.service, 0, now)
	if !ok {
		t.Fatal("denied")
	}
	rules := s.sessions.rules
	if _, err := s.RemoveGrant(s.ctx(), api.GrantRequest{User: "ana", Service: "ssh"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.sessions.place(a, v, rules, now); !errors.Is(err, errRules) {
		t.Errorf("got %v, want another look at the rules", err)
	}
}

// TestABadAgentLosesItsStream: what does not follow the protocol ends the stream,
// and nothing else.
func TestABadAgentLosesItsStream(t *testing.T) {
	s := newScene(t)
	for name, m := range map[string]control.FromHost{
		"an acknowledgement of nothing": {Ack: &control.Ack{Number: 1 << 40}},
		"a second hello":                {Hello: &control.Hello{Port: 1}},
		"nothing":                       {},
	} {
		s.connect()
		if err := s.agent.stream.Send(m); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.agent.done:
		case <-time.After(patience):
			t.Errorf("%s: the stream lives on", name)
		}
	}
	s.connect()
	s.open()
}

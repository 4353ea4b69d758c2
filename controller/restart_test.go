package controller

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// connect brings the host's agent back with what it still serves, and returns
// the ids that the controller wants to go on.
func (s *scene) connect(sessions ...control.Session) []key.ID {
	s.t.Helper()
	s.agent = s.house.agent(s.hostID, sessions...)
	var ids []key.ID
	for _, v := range s.agent.sync(s.t) {
		ids = append(ids, v.ID)
	}
	return ids
}

func TestARestartLosesNoSession(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	s.restart()
	live, err := s.AllSessions(s.ctx())
	if err != nil || len(live) != 1 || live[0].ID != grant.Session {
		t.Fatalf("after the restart: %v, %v", live, err)
	}
	if got := live[0].Deadline.Sub(grant.Deadline).Abs(); got > time.Second {
		t.Errorf("the deadline moved by %s", got)
	}
	if got := s.connect(); !slices.Equal(got, []key.ID{grant.Session}) {
		t.Errorf("the host was told to go on with %v", got)
	}
}

// TestACrashLosesNoSessionThatHolds: the controller died before it had written the
// session. The host reports it, and it is judged anew.
func TestACrashLosesNoSessionThatHolds(t *testing.T) {
	s := newScene(t)
	_, order := s.open()
	revoked, revokedOrder := s.open()
	if _, err := s.RevokeSession(s.ctx(), revoked.Session); err != nil {
		t.Fatal(err)
	}
	s.agent.close()
	s.forget(order.ID)

	eve := s.enroll(control.RoleClient, "eve", "evil")
	forbidden := order
	forbidden.ID, forbidden.Device = key.NewID(), eve.ID
	stranger := order
	stranger.ID, stranger.Service = key.NewID(), "nosuch"
	over := order
	over.ID, over.TTL = key.NewID(), 0

	got := s.connect(order, revokedOrder, forbidden, stranger, over)
	if !slices.Equal(got, []key.ID{order.ID}) {
		t.Errorf("the host goes on with %v, want %s alone", got, order.ID)
	}
	live, err := s.AllSessions(s.ctx())
	if err != nil || len(live) != 1 {
		t.Fatalf("live: %v, %v", live, err)
	}
	if left := time.Until(live[0].Deadline); left > time.Hour {
		t.Errorf("the adopted session has %s left, more than it had", left)
	}
}

// forget makes the controller as it is after a crash that the session's record
// did not survive.
func (s *scene) forget(id key.ID) {
	s.t.Helper()
	s.sessions.mu.Lock()
	s.sessions.removeLocked(s.sessions.byID[id])
	s.sessions.mu.Unlock()
	s.ledger.drop(id)
	if err := s.ledger.sync(s.ctx()); err != nil {
		s.t.Fatal(err)
	}
}

func TestWhatEndedStaysEndedAfterARestart(t *testing.T) {
	s := newScene(t)
	grant, order := s.open()
	if _, err := s.RevokeSession(s.ctx(), grant.Session); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if got := s.connect(order); len(got) != 0 {
		t.Errorf("a revoked session came back: %v", got)
	}
}

// TestAHostThatWasAwayLearnsOfTheEnd: the revocation is acknowledged without it,
// and it is told by the Sync when it is back.
func TestAHostThatWasAwayLearnsOfTheEnd(t *testing.T) {
	s := newScene(t)
	grant, order := s.open()
	s.agent.close()
	testkit.Eventually(t, patience, "the host to be offline", func() bool {
		return s.sessions.online(s.hostID.ID) == nil
	})
	cut, err := s.RevokeSession(s.ctx(), grant.Session)
	if err != nil || cut.Confirmed {
		t.Errorf("got %+v, %v, want it cut and not confirmed", cut, err)
	}
	if got := s.connect(order); len(got) != 0 {
		t.Errorf("the host goes on with %v", got)
	}
}

func TestANewerStreamReplacesTheOlder(t *testing.T) {
	s := newScene(t)
	old := s.agent
	grant, order := s.open()
	if got := s.connect(order); !slices.Equal(got, []key.ID{grant.Session}) {
		t.Errorf("the new stream's Sync has %v", got)
	}
	select {
	case <-old.done:
	case <-time.After(patience):
		t.Fatal("the older stream lives on")
	}
	s.open() // by the new stream
}

func TestPolicyThatChangedWhileAwayIsAppliedAtTheStart(t *testing.T) {
	s := newScene(t)
	grant, order := s.open()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Config: s.config, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.directory.book.Remove("ana", "ssh"); err != nil {
		t.Fatal(err)
	}
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
	s.config.Knock.Listen, s.config.Control.Listen = s.addresses.Knock.String(), s.addresses.Control.String()
	s.start()
	if got := s.connect(order); len(got) != 0 {
		t.Errorf("session %s goes on without a grant", grant.Session)
	}
}

// TestASyncFitsIntoOneMessage: as many sessions as a host may have, each as long
// as names and targets can be.
func TestASyncFitsIntoOneMessage(t *testing.T) {
	longest := control.Session{
		ID: key.NewID(), Device: key.NewID(), Service: strings.Repeat("s", 63),
		Target: strings.Repeat("t", 300), Source: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
		TTL: control.Duration(720*time.Hour - time.Nanosecond), Deadline: time.Now().Add(720 * time.Hour),
		Knock: control.HostKnockText{HostKnock: key.NewHostKnock()},
	}
	sync := control.Sync{Now: time.Now(), Sessions: slices.Repeat([]control.Session{longest}, maxHostSessions)}
	line, err := control.EncodeLine(nil, control.ToHost{Number: 1, Sync: &sync})
	if err != nil || len(line) > control.MaxBody {
		t.Errorf("a full Sync has %d bytes (%v), want at most %d", len(line), err, control.MaxBody)
	}
}

func TestAPortThatIsTakenIsTold(t *testing.T) {
	for name, take := range map[string]func(*Config, Addresses){
		"knock":   func(c *Config, a Addresses) { c.Knock.Listen = a.Knock.String() },
		"control": func(c *Config, a Addresses) { c.Control.Listen = a.Control.String() },
		"admin":   func(*Config, Addresses) {},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			second := h.config
			second.State = filepath.Join(t.TempDir(), "state")
			if name != "admin" {
				second.AdminSocket = filepath.Join(t.TempDir(), "b.sock")
			}
			take(&second, h.addresses)
			if _, err := Init(second.State, second.Name); err != nil {
				t.Fatal(err)
			}
			c, err := New(Options{Config: second, Log: discard()})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Run(h.ctx()); err == nil {
				t.Error("a second controller ran on what the first one listens on")
			}
		})
	}
}

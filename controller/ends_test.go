package controller

import (
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// closes ends a session by its owner's knock.
func (s *scene) closes(id key.ID) {
	s.t.Helper()
	k := s.device.KnockConfig(spa.KindClose)
	k.Session = id
	if _, err := s.device.Knock(s.ctx(), k); err != nil {
		s.t.Fatal(err)
	}
}

// forgotten waits until nothing of any session is on the disk.
func (s *scene) forgotten() {
	s.t.Helper()
	testkit.Eventually(s.t, patience, "the store to have no session any more", func() bool {
		records, err := s.readSessions()
		return err == nil && len(records) == 0
	})
}

// TestOpeningAndClosingLeavesNothingBehind: a device that does nothing else fills neither
// memory nor disk.
func TestOpeningAndClosingLeavesNothingBehind(t *testing.T) {
	s := newScene(t)
	for range 5 {
		grant, _ := s.open()
		s.closes(grant.Session)
		s.closed(grant.Session)
	}
	s.forgotten()
}

// TestAnEndIsRememberedUntilItsHostHasIt: what ended while the host was away does not come
// back with it, and is forgotten once it has acknowledged the Sync.
func TestAnEndIsRememberedUntilItsHostHasIt(t *testing.T) {
	s := newScene(t)
	grant, order := s.open()
	s.agent.close()
	testkit.Eventually(t, patience, "the host to be offline", func() bool {
		return s.sessions.online(s.hostID.ID) == nil
	})
	s.closes(grant.Session)
	if records, err := s.readSessions(); err != nil || len(records) != 1 || records[0].Ended != reasonOwner {
		t.Errorf("with the host away the store has %v, %v, want the end", records, err)
	}
	s.restart()
	if got := s.connect(order); len(got) != 0 {
		t.Errorf("the host goes on with %v", got)
	}
	s.forgotten()
}

// TestWhatAHostEndsItselfIsForgotten, as soon as the host has it on its disk.
func TestWhatAHostEndsItselfIsForgotten(t *testing.T) {
	s := newScene(t)
	grant, _ := s.open()
	if err := s.ledger.sync(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := s.agent.stream.Send(control.FromHost{Ended: &control.Ended{Session: grant.Session}}); err != nil {
		t.Fatal(err)
	}
	s.forgotten()
}

// TestWhatAHostReportsTakesNoRoomOfADevice: a host that is taken over invents sessions in
// the name of one that may reach it, which opens its own all the same.
func TestWhatAHostReportsTakesNoRoomOfADevice(t *testing.T) {
	s := newScene(t)
	_, order := s.open()
	invented := []control.Session{order}
	for range maxDeviceSessions {
		order.ID, order.Knock.HostKnock = key.NewID(), key.NewHostKnock()
		invented = append(invented, order)
	}
	s.agent.close()
	if got := s.connect(invented...); len(got) != len(invented) {
		t.Errorf("%d sessions go on, want %d", len(got), len(invented))
	}
	s.open()
}

// TestAHostThatOwesItsAcknowledgementsIsGivenNoMore, and others are.
func TestAHostThatOwesItsAcknowledgementsIsGivenNoMore(t *testing.T) {
	s := newScene(t)
	_, order := s.open()
	other := s.enroll(control.RoleHost, "", "other")
	s.house.agent(other).sync(t)
	_, err := s.AddService(s.ctx(), api.ServiceRequest{Name: "db", Host: "other", Target: "127.0.0.1:5432"})
	if err != nil {
		t.Fatal(err)
	}
	s.addGrant("ana", "db")
	s.sessions.mu.Lock()
	for range maxHostEnds {
		s.sessions.ends.add(s.hostID.ID, key.NewID(), reasonExpired, time.Now().Add(time.Hour))
	}
	s.sessions.mu.Unlock()
	_, err = s.knock(s.device, "ssh", key.ID{}, 0)
	wantDenied(t, err, spa.CodeBusy)
	if _, err := s.knock(s.device, "db", key.ID{}, 0); err != nil {
		t.Errorf("another host's service: %v", err)
	}
	s.agent.close()
	s.connect(order) // and its Sync is acknowledged
	testkit.Eventually(t, patience, "the host to owe nothing", func() bool {
		s.sessions.mu.Lock()
		defer s.sessions.mu.Unlock()
		return !s.sessions.ends.full(s.hostID.ID)
	})
	s.open()
}

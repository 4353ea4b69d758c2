package controller

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

func report(sequence uint64, hash string) control.EmergencyReport {
	return control.EmergencyReport{Hash: hash, Record: control.EmergencyRecord{
		Sequence: sequence, Time: time.Now().UTC(), Event: control.EmergencyAccepted, Key: key.NewID(),
		Counter: 1, Service: "ssh", Port: control.ServicePort{Transport: control.TransportTCP, Port: 22},
		Source: netip.MustParseAddr("192.0.2.7"), For: control.Duration(time.Hour),
	}}
}

// tell sends a report and waits for its acknowledgement, if there is to be one.
func (s *scene) tell(r control.EmergencyReport, acknowledged bool) {
	s.t.Helper()
	if err := s.agent.stream.Send(control.FromHost{Emergency: &r}); err != nil {
		s.t.Fatal(err)
	}
	if !acknowledged {
		return
	}
	if order := s.agent.next(s.t); order.Told == nil || order.Told.Sequence != r.Record.Sequence {
		s.t.Fatalf("got %+v, want an acknowledgement of %d", order, r.Record.Sequence)
	}
}

func TestAHostsEmergencyIsLoudKeptAndAcknowledged(t *testing.T) {
	s := newScene(t)
	first := report(1, "aa")
	first.Record.Note = "a note \x1b[2J"
	s.tell(first, true)
	s.tell(first, true) // told again, as after a broken stream
	s.tell(report(2, "bb"), true)
	if n := strings.Count(s.logs.String(), "EMERGENCY KEY at a host"); n != 2 {
		t.Errorf("the log tells of it %d times, want 2", n)
	}
	if !strings.Contains(s.logs.String(), "level=ERROR msg=\"EMERGENCY KEY at a host\" kind=accepted") {
		t.Errorf("not at level ERROR:\n%s", s.logs)
	}
	check := func() {
		t.Helper()
		all, err := s.Emergencies(s.ctx())
		if err != nil || len(all) != 2 || all[0].Name != "web" || all[0].Hash != "aa" ||
			all[0].Record.Source != first.Record.Source || strings.Contains(all[0].Record.Note, "\x1b") {
			t.Errorf("kept %+v, %v", all, err)
		}
	}
	check()
	forged := report(1, "cc")
	s.tell(forged, true)
	check()
	if !strings.Contains(s.logs.String(), "host contradicts what it told") {
		t.Error("the log does not tell of the contradiction")
	}
}

func TestAMalformedReportIsIgnoredAndCounted(t *testing.T) {
	s := newScene(t)
	zero, event, nobody, long := report(0, "aa"), report(1, "aa"), report(1, "aa"), report(1, strings.Repeat("a", 65))
	event.Record.Event, nobody.Record.Key = "party", key.ID{}
	for _, r := range []control.EmergencyReport{zero, event, nobody, long} {
		s.tell(r, false)
	}
	s.tell(report(1, "aa"), true) // the stream lives
	status, err := s.Status(s.ctx())
	if err != nil || status.BadReports != 4 || status.Emergencies != 1 {
		t.Errorf("counted %d and %d, %v", status.BadReports, status.Emergencies, err)
	}
}

func TestAHostCannotFillTheController(t *testing.T) {
	s := newScene(t)
	c := s.Controller
	for n := uint64(1); n <= 5; n++ {
		if _, err := c.keepEmergency(emergencyRecord{Host: s.hostID.ID, Report: report(n, "aa")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []uint64{maxEmergencies + 1, 2*maxEmergencies + 1} {
		if fresh, err := c.keepEmergency(emergencyRecord{Host: s.hostID.ID, Report: report(n, "aa")}); err != nil || !fresh {
			t.Fatalf("%d: %v, %v", n, fresh, err)
		}
	}
	all, err := s.Emergencies(s.ctx())
	if err != nil || len(all) != 5 {
		t.Errorf("%d are kept, %v", len(all), err)
	}
}

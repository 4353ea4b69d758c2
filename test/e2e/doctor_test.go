package e2e

import (
	"strings"
	"testing"

	"github.com/postern-sdp/postern/host/doctor"
)

// TestTheDoctorTellsWhatAilsAHost takes one thing after the other away from a host
// that is well.
func TestTheDoctorTellsWhatAilsAHost(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	well, err := l.Doctor(t.Context())
	if err != nil || well.Failures != 0 || well.Stranger != "a stranger sees nothing" {
		t.Fatalf("a host that is well: %v: %+v", err, well)
	}
	expect(t, well, "agent", doctor.OK, "runs for")
	expect(t, well, "controller", doctor.OK, "the agent is connected")
	if !has(well, doctor.Door{Protocol: "tcp", Port: 22, Program: "sshd", Sees: doctor.Dark}) {
		t.Errorf("sshd is not among the dark doors: %+v", well.Doors)
	}

	if err := l.StopHost(); err != nil {
		t.Fatal(err)
	}
	alone, err := l.Doctor(t.Context())
	if err != nil || alone.Stranger != "a stranger sees nothing" {
		t.Errorf("without an agent: %v, %q", err, alone.Stranger)
	}
	expect(t, alone, "agent", doctor.Warn, "does not run")
	expect(t, alone, "controller", doctor.OK, "reached by a knock")
	expect(t, alone, "clock", doctor.OK, "the controller's")

	if err := l.StopController(); err != nil {
		t.Fatal(err)
	}
	cut, err := l.Doctor(t.Context())
	if err == nil {
		t.Error("the doctor is content with a controller that is silent")
	}
	expect(t, cut, "controller", doctor.Fail, "silence")

	if _, err := l.Run(t.Context(), "host", "nft", "delete", "table", "inet", "postern"); err != nil {
		t.Fatal(err)
	}
	bare, _ := l.Doctor(t.Context()) // fails for the controller still
	expect(t, bare, "firewall", doctor.Fail, "shall be protected")
	expect(t, bare, "protection", doctor.OK, "on")
	if !has(bare, doctor.Door{Protocol: "tcp", Port: 22, Program: "sshd", Sees: doctor.Visible}) ||
		!strings.Contains(bare.Stranger, "tcp/22") {
		t.Errorf("without the table: %q, %+v", bare.Stranger, bare.Doors)
	}
}

func expect(t *testing.T, r doctor.Report, name string, state doctor.State, says string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name && (f.State != state || !strings.Contains(f.Found, says)) {
			t.Errorf("%s: %s: %q, want %s: %q", name, f.State, f.Found, state, says)
		}
	}
}

func has(r doctor.Report, want doctor.Door) bool {
	for _, d := range r.Doors {
		if d.Protocol == want.Protocol && d.Port == want.Port && d.Program == want.Program && d.Sees == want.Sees {
			return true
		}
	}
	return false
}

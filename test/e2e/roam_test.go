package e2e

import (
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

// newRoam is a client at work, 40 ms away from the host.
func newRoam(t *testing.T) *lab.Roam {
	t.Helper()
	r, err := lab.NewRoam(t.Context(), newLab(t), 40*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	r.Slack = 2 * time.Second
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func try(t *testing.T, r *lab.Roam, changes []lab.Change) {
	t.Helper()
	for _, c := range changes {
		t.Run(c.Name, func(t *testing.T) {
			outcome, err := r.Try(t.Context(), c)
			if err != nil {
				t.Errorf("%v (%s)", err, outcome)
			}
			t.Log(outcome)
		})
	}
}

// TestSleepAndRestartsLoseNoByte of a transfer: it goes on, or breaks openly where
// the host's agent was killed, and the next one runs.
func TestSleepAndRestartsLoseNoByte(t *testing.T) {
	r := newRoam(t)
	try(t, r, r.Interruptions())
}

// TestAChangeOfThePathLosesNoByteAndStallsBriefly, whether the NAT rebinds or the client
// moves, awake or asleep, with a controller or without one. `make roam` has the figures:
// two round trips and 200 ms at most.
func TestAChangeOfThePathLosesNoByteAndStallsBriefly(t *testing.T) {
	r := newRoam(t)
	try(t, r, r.PathChanges())
	for range 3 { // a NAT that rebinds again and again has filled QUIC's windows before
		try(t, r, r.PathChanges()[:1])
	}
}

package e2e

import (
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// TestProgramsOfEveryDayWorkThroughPostern runs the real programs on the client
// against real services of the host's, which stays dark to all others meanwhile.
func TestProgramsOfEveryDayWorkThroughPostern(t *testing.T) {
	l := newLab(t)
	e, err := lab.NewEveryday(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(e.Log())
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range e.Steps() {
		t.Run(s.Name, func(t *testing.T) {
			evidence, err := s.Run(t.Context(), l)
			if err != nil {
				t.Fatalf("%v (%s)", err, evidence)
			}
			t.Log(evidence)
		})
	}
}

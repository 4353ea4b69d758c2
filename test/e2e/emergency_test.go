package e2e

import (
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// TestAnEmergencyKeyOpensOnePortToItsUserWhenEveryControllerIsGone with the real
// programs, and to nobody else, while others probe all along.
func TestAnEmergencyKeyOpensOnePortToItsUserWhenEveryControllerIsGone(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			l := newLab(t)
			l.Backend = backend
			e, err := lab.NewEmergency(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			inOrder(t, l, e.Steps(), e)
		})
	}
}

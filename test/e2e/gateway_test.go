package e2e

import (
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// TestAGatewayLetsOneClientThroughToOneMachine behind it, and everybody else, who
// knows the way there, to none at any moment.
func TestAGatewayLetsOneClientThroughToOneMachine(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			l := newLab(t)
			l.Backend = backend
			g, err := lab.NewGateway(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			inOrder(t, l, g.Steps(), g)
		})
	}
}

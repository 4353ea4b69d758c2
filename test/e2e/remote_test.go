package e2e

import (
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// TestARemoteServerIsDarkAtEveryInstantAndLocksNobodyOut takes a server with sshd,
// ufw and a container's published port from the installation to the removal, while
// a stranger and a neighbour of the client's probe it without a pause.
func TestARemoteServerIsDarkAtEveryInstantAndLocksNobodyOut(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			l := newLab(t)
			l.Backend = backend
			r, err := lab.NewRemote(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			inOrder(t, l, r.Steps(), r)
		})
	}
}

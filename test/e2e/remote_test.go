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
			r, err := lab.NewRemote(t.Context(), l, backend)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				t.Logf("what the probes met:\n%s", r.Log())
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}()
			for _, s := range r.Steps() {
				ok := t.Run(s.Name, func(t *testing.T) {
					evidence, err := s.Run(t.Context(), l)
					if err != nil {
						t.Fatalf("%v (%s)", err, evidence)
					}
					t.Log(evidence)
				})
				if !ok {
					return // what follows stands on it
				}
			}
		})
	}
}

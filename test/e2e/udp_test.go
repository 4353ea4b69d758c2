package e2e

import (
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

// TestUDPServicesWorkThroughATunnelAndDirectly with the real programs.
func TestUDPServicesWorkThroughATunnelAndDirectly(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, l.Logs())
	}
	if err := l.ServePackets("host", "0.0.0.0:5353"); err != nil {
		t.Fatal(err)
	}
	for _, service := range []struct{ name, target, mode string }{
		{"echo-tunnel", "127.0.0.1:5353", "tunnel"}, {"echo-direct", ":5353", "direct"},
	} {
		t.Run(service.mode, func(t *testing.T) {
			for _, args := range [][]string{
				{"service", "add", "--host", "host1", "--udp", "--mode", service.mode, "--target", service.target, service.name},
				{"grant", "add", "--for", "1h", "alice", service.name},
			} {
				if _, err := l.Admin(t.Context(), args...); err != nil {
					t.Fatal(err)
				}
			}
			forward, err := l.Connect(t.Context(), "client", service.name)
			if err != nil {
				t.Fatal(err)
			}
			defer forward.Close()
			conn, err := forward.DialPacket()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			err = lab.Wait(t.Context(), 10*time.Second, "an echo", func() (bool, error) {
				return lab.Echoes(conn, []byte("hello")), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			sessions, err := l.Sessions(t.Context())
			if err != nil || len(sessions) != 1 {
				t.Fatalf("sessions: %v, %v", sessions, err)
			}
			if _, err := l.Admin(t.Context(), "session", "revoke", sessions[0].ID); err != nil {
				t.Fatal(err)
			}
			if lab.Echoes(conn, []byte("too late")) {
				t.Error("an echo came after the revocation")
			}
		})
	}
}

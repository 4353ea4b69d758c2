package e2e

import (
	"io"
	"net"
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
	for _, service := range []struct{ name, target, mode, binding string }{
		{"echo-tunnel", "127.0.0.1:5353", "tunnel", "exact"},
		{"echo-direct", ":5353", "direct", "address"}, {"echo-exact", ":5353", "direct", "exact"},
	} {
		t.Run(service.name, func(t *testing.T) {
			for _, args := range [][]string{
				{"service", "add", "--host", "host1", "--udp", "--mode", service.mode, "--bind", service.binding, "--target", service.target, service.name},
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

// A second connection would move the one opening that there is.
func TestADirectServiceOfBindingExactLetsInOneConnectionAtATime(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, l.Logs())
	}
	err := l.Serve("host", "0.0.0.0:7003", func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c) // until the client ends it
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--mode", "direct", "--bind", "exact", "--target", ":7003", "one"},
		{"grant", "add", "--for", "1h", "alice", "one"},
	} {
		if _, err := l.Admin(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	forward, err := l.Connect(t.Context(), "client", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer forward.Close()
	echo := func(conn net.Conn) error {
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err := io.ReadFull(conn, make([]byte, 5))
		return err
	}
	first, err := forward.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := echo(first); err != nil {
		t.Fatalf("the first: %v\n%s", err, l.Logs())
	}
	second, err := forward.Dial()
	if err == nil {
		defer second.Close()
		err = echo(second)
	}
	if err == nil {
		t.Error("a second connection was let in")
	}
	if err := echo(first); err != nil {
		t.Errorf("the first, after the second was refused: %v", err)
	}
	first.Close()
	err = lab.Wait(t.Context(), 20*time.Second, "the next connection", func() (bool, error) {
		next, err := forward.Dial()
		if err != nil {
			return false, nil
		}
		defer next.Close()
		return echo(next) == nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}

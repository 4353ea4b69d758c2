package e2e

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

// TestASessionLivesThroughTheLossOfItsControllerAndIsRenewedByTheNext has one
// connection open all along: no byte of it is lost, though the deadline of the first
// grant passes.
func TestASessionLivesThroughTheLossOfItsControllerAndIsRenewedByTheNext(t *testing.T) {
	l := newLab(t)
	if err := l.StartSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := l.Serve("host", "127.0.0.1:7200", func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--target", "127.0.0.1:7200", "echo"},
		{"grant", "add", "--for", "1h", "alice", "echo"},
	} {
		if _, err := l.Admin(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	const length = 15 * time.Second
	forward, err := l.Connect(t.Context(), "client", "echo", "--for", length.String())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(length)
	defer forward.Close()
	conn, err := forward.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	works := func(when string) {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, len(when))
		if _, err := conn.Write([]byte(when)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != when {
			t.Fatalf("%s: %q came back, %v", when, b, err)
		}
	}
	works("with the controller")
	if err := l.StopController(); err != nil {
		t.Fatal(err)
	}
	works("without one")
	if err := l.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	var said []string
	err = lab.Wait(t.Context(), length+10*time.Second, "the session to be renewed", func() (bool, error) {
		said = append(said, forward.Said()...)
		return slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "session renewed") }), nil
	})
	if err != nil {
		t.Fatalf("%v; the client said %q", err, said)
	}
	err = lab.Wait(t.Context(), length+time.Minute, "the first deadline to be over", func() (bool, error) {
		return time.Now().After(deadline.Add(2 * time.Second)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	works("after the first deadline")
	t.Logf("the client said %q", said)
}

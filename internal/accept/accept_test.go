package accept_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/internal/accept"
)

// poor is a listener of a process that has no file left for a while.
type poor struct {
	net.Listener
	left int
}

func (p *poor) Accept() (net.Conn, error) {
	if p.left > 0 {
		p.left--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return p.Listener.Accept()
}

func TestErrorsThatPassEndNoListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	told := 0
	conn, err := accept.Next(t.Context(), &poor{l, 4}, func(err error) {
		if told++; !errors.Is(err, syscall.EMFILE) {
			t.Errorf("told %v", err)
		}
	})
	if err != nil || told != 1 {
		t.Fatalf("%v, told %d times; want a connection, and once", err, told)
	}
	conn.Close()
}

func TestAClosedListenerAndAContextsEndAreTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := func(error) { cancel() }
	if _, err := accept.Next(ctx, &poor{l, 1000}, failed); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("after the context's end: %v", err)
	}
	l.Close()
	if _, err := accept.Next(t.Context(), l, failed); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the listener's: %v", err)
	}
}

package host

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
)

// exhausted is a listener of a process without files, for a while.
type exhausted struct {
	left  int
	conns chan net.Conn
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.left > 0 {
		e.left--
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: syscall.EMFILE}
	}
	if c, ok := <-e.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (e *exhausted) Addr() net.Addr { return nil }
func (e *exhausted) Close() error   { close(e.conns); return nil }

func TestStatusOutlivesAProcessWithoutFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &exhausted{left: 3, conns: make(chan net.Conn)}
		var serving sync.WaitGroup
		serving.Go(func() {
			err := serveStatus(context.Background(), l, func() (Status, error) {
				return Status{Name: "web1"}, nil
			}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		})
		here, there := net.Pipe()
		l.conns <- there
		b, err := io.ReadAll(here)
		var s Status
		if err != nil || json.Unmarshal(b, &s) != nil || s.Name != "web1" {
			t.Errorf("told %s, %v", b, err)
		}
		l.Close()
		serving.Wait()
	})
}

func TestStatusEndsWithTheAgentWhileItPauses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serveStatus(ctx, &exhausted{left: 1 << 30}, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

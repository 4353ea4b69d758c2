package metrics

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestATakenPortIsTriedUntilItIsFree(t *testing.T) {
	testkit.NoLeak(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	told := make(chan error, 16)
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() {
		Keep(ctx, address, func() (host.Status, error) { return host.Status{}, nil }, func(err error) { told <- err })
	})
	defer keeping.Wait()
	defer cancel()
	hear := func() error {
		select {
		case err := <-told:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was told")
			return nil
		}
	}
	if err := hear(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("told %v", err)
	}
	taken.Close()
	for hear() != nil {
	}
	if families, code := scrape(t, address); families == nil {
		t.Errorf("status %d once the port was free", code)
	}
}

package netchange

import (
	"context"
	"testing"
	"time"
)

func TestPollingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); poll(ctx, func() {}) }()
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
	if len(addresses()) == 0 {
		t.Error("this machine has no address, not even its own")
	}
}

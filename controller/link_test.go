package controller

import (
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
)

// TestAPingTellsTheTimeOfItsSending, by which hosts judge host knocks.
func TestAPingTellsTheTimeOfItsSending(t *testing.T) {
	now := time.Now()
	asked := &control.Ping{}
	sent := timed(control.ToHost{Ping: asked}, now)
	if sent.Ping == nil || !sent.Ping.Now.Equal(now) {
		t.Errorf("sent %+v", sent.Ping)
	}
	if !asked.Now.IsZero() {
		t.Error("the order itself was changed, which may be sent again")
	}
}

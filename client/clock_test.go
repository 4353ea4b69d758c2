package client

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/spa"
)

// In the bubble time.Now jumps, and the clock since boot is the machine's: as when
// somebody sets the wall clock.
func TestAClockThatIsSetEndsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Granted{
			grant: &spa.Grant{}, Deadline: time.Now().Add(time.Hour), until: bootclock.Now() + time.Hour,
		}
		time.Sleep(10 * time.Hour)
		if left := g.left(); left < 50*time.Minute || left > time.Hour {
			t.Errorf("%s left, want an hour", left)
		}
		if shown := time.Until(g.onClock().Deadline); shown < 50*time.Minute || shown > time.Hour {
			t.Errorf("it is shown to end in %s, want an hour", shown)
		}
	})
}

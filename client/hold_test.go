package client

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-sdp/postern/spa"
)

func TestADenialIsKeptForLongerTheMoreItIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied := &DeniedError{Code: spa.CodeNotGranted}
		var h hold
		knocks := 0
		for range 120 { // half a minute, four times a second
			if h.check() == nil {
				knocks++
				h.note(denied)
			} else if err := h.check(); !errors.Is(err, error(denied)) || !isHeld(err) {
				t.Fatal(err)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if knocks != 5 { // at 0, 1, 3, 7 and 15 s
			t.Errorf("%d knocks, want 5", knocks)
		}
	})
}

func TestAPersonWhoAsksNowAndThenIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hold
		for range 10 {
			if err := h.check(); err != nil {
				t.Fatal(err)
			}
			h.note(&DeniedError{Code: spa.CodeNotGranted})
			time.Sleep(2 * time.Second)
		}
	})
}

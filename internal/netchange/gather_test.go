package netchange

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A laptop in a new Wi-Fi is not to wait for its tunnels, and one whose routes change
// all day is not to knock all day.
func TestAChangeIsToldAtOnceAndManyTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changes := make(chan struct{}, 1)
		told := 0
		done := make(chan struct{})
		go func() { defer close(done); gather(ctx, changes, func() { told++ }) }()
		change := func() {
			select {
			case changes <- struct{}{}:
			default:
			}
			synctest.Wait()
		}
		change()
		if told != 1 {
			t.Errorf("told %d times at once, want 1", told)
		}
		change()
		change()
		time.Sleep(settle)
		synctest.Wait()
		if told != 2 {
			t.Errorf("told %d times of three changes, want 2", told)
		}
		time.Sleep(time.Minute)
		change()
		if told != 3 {
			t.Errorf("told %d times after a while without changes, want 3", told)
		}
		for range 10 * time.Minute / time.Millisecond {
			time.Sleep(time.Millisecond)
			change()
		}
		if told < 10*60 || told > 10*60+20 {
			t.Errorf("told %d times in ten minutes of changes, want about once a second", told)
		}
		cancel()
		<-done
	})
}

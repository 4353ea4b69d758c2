package testkit

import (
	"runtime"
	"testing"
	"time"
)

// pollEvery is the pause between two looks of Eventually.
const pollEvery = 2 * time.Millisecond

// leakPatience is for how long goroutines may still be about to end.
const leakPatience = 10 * time.Second

// Eventually looks every other millisecond until condition is true and ends the
// test when it is not within the time given; what says what was waited for.
func Eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		last := time.Now().After(deadline) // before the look: a machine that stood still looks once more
		switch {
		case condition():
			return
		case last:
			t.Fatalf("after %v still not so: %s", within, what)
		}
		time.Sleep(pollEvery)
	}
}

// NoLeak fails the test at its end when more goroutines are running than at the
// call of NoLeak, and prints all stacks. Call it first: cleanups registered later
// run before the check. Tests that run in parallel cannot use it.
func NoLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(leakPatience)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("%d goroutines before the test, %d after:\n%s",
					before, runtime.NumGoroutine(), stacks)
				return
			}
			time.Sleep(pollEvery)
		}
	})
}

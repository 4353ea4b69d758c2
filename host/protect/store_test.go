package protect

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestOneWhoMustNotWaitIsToldThatTheRecordIsBusy(t *testing.T) {
	m := newMachine(t)
	hasty := m.Store
	hasty.NoWait = true
	nothing := func(Record, Clock) error { return nil }
	err := m.Store.Hold(t.Context(), func(Record, Clock) error {
		if err := hasty.Hold(t.Context(), nothing); !errors.Is(err, ErrBusy) {
			t.Errorf("hold: %v", err)
		}
		if err := hasty.Change(t.Context(), func(*Record, Clock) error { return nil }, nothing); !errors.Is(err, ErrBusy) {
			t.Errorf("change: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := hasty.Hold(t.Context(), nothing); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

func TestWaitingForAnotherEndsWithItsContext(t *testing.T) {
	m := newMachine(t)
	nothing := func(Record, Clock) error { return nil }
	err := m.Store.Hold(t.Context(), func(Record, Clock) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*lockPause)
		defer cancel()
		if err := m.Store.Hold(ctx, nothing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hold: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneWhoWaitsComesNext(t *testing.T) {
	m := newMachine(t)
	nothing := func(Record, Clock) error { return nil }
	next := make(chan error, 1)
	err := m.Store.Hold(t.Context(), func(Record, Clock) error {
		go func() { next <- m.Store.Hold(context.Background(), nothing) }() // ended below
		select {
		case err := <-next:
			t.Errorf("did not wait: %v", err)
		case <-time.After(5 * lockPause):
		}
		return nil
	})
	if err := errors.Join(err, <-next); err != nil {
		t.Fatal(err)
	}
}

package protect

import (
	"errors"
	"testing"
)

func TestOneWhoMustNotWaitIsToldThatTheRecordIsBusy(t *testing.T) {
	m := newMachine(t)
	hasty := m.Store
	hasty.NoWait = true
	nothing := func(Record, Clock) error { return nil }
	err := m.Store.Hold(func(Record, Clock) error {
		if err := hasty.Hold(nothing); !errors.Is(err, ErrBusy) {
			t.Errorf("hold: %v", err)
		}
		if err := hasty.Change(func(*Record, Clock) error { return nil }, nothing); !errors.Is(err, ErrBusy) {
			t.Errorf("change: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := hasty.Hold(nothing); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

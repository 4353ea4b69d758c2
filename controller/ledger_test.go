package controller

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/postern-sdp/postern/spa/key"
)

func TestASyncWaitsForABatchThatIsBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := newLedger(func(map[key.ID][]byte) error { <-release; return nil }, discard())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		l.drop(key.NewID())
		first := make(chan error, 1)
		go func() { first <- l.sync(ctx) }()
		synctest.Wait() // the batch is taken out and not written
		second := make(chan error, 1)
		go func() { second <- l.sync(ctx) }()
		synctest.Wait()
		select {
		case <-second:
			t.Error("sync returned while its record was not on disk")
		default:
		}
		close(release)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAFullDiskIsToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		written := make(map[key.ID][]byte)
		failures := 2
		l := newLedger(func(batch map[key.ID][]byte) error {
			if failures > 0 {
				failures--
				return full
			}
			for id, v := range batch {
				written[id] = v
			}
			return nil
		}, discard())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		id := key.NewID()
		l.set(id, []byte("ended"))
		if err := l.sync(ctx); !errors.Is(err, full) {
			t.Errorf("sync on a full disk: %v", err)
		}
		for l.sync(ctx) != nil {
		}
		if string(written[id]) != "ended" {
			t.Error("what could not be written was lost")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

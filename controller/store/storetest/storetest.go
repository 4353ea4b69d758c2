// Package storetest is the suite that every implementation of store.Store passes.
package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/postern-sdp/postern/controller/store"
)

// Run runs the suite; open returns an empty store that the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, promise := range map[string]func(*testing.T, store.Store){
		"WhatIsPutIsGot":              putAndGet,
		"AFailedUpdateLeavesNothing":  failedUpdate,
		"EachGoesInOrderAndEndsEarly": each,
		"ValuesAreCopies":             copies,
		"UpdatesTakeTurns":            turns,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			promise(t, s)
		})
	}
}

func update(t *testing.T, s store.Store, f func(store.Tx) error) {
	t.Helper()
	if err := s.Update(f); err != nil {
		t.Fatal(err)
	}
}

func putAndGet(t *testing.T, s store.Store) {
	type value struct{ N int }
	update(t, s, func(tx store.Tx) error {
		return errors.Join(store.Put(tx, "b", "k", value{7}), store.Put(tx, "b", "gone", value{8}),
			tx.Delete("b", "gone"), tx.Delete("b", "never"), tx.Delete("none", "never"))
	})
	err := s.View(func(tx store.Tx) error {
		v, err := store.Get[value](tx, "b", "k")
		if err != nil || v.N != 7 {
			t.Errorf("got %v, %v", v, err)
		}
		for _, place := range [][2]string{{"b", "gone"}, {"none", "k"}} {
			if _, err := tx.Get(place[0], place[1]); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%v: %v, want ErrNotFound", place, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func failedUpdate(t *testing.T, s store.Store) {
	boom := errors.New("boom")
	err := s.Update(func(tx store.Tx) error {
		if err := tx.Put("b", "k", []byte("v")); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	_ = s.View(func(tx store.Tx) error {
		if _, err := tx.Get("b", "k"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the failed update left something: %v", err)
		}
		return nil
	})
}

func each(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		for _, k := range []string{"c", "a", "b"} {
			if err := tx.Put("b", k, []byte(k)); err != nil {
				return err
			}
		}
		return nil
	})
	stop := errors.New("stop")
	var seen strings.Builder
	err := s.View(func(tx store.Tx) error {
		return tx.Each("b", func(k string, _ []byte) error {
			seen.WriteString(k)
			if k == "b" {
				return stop
			}
			return nil
		})
	})
	if !errors.Is(err, stop) || seen.String() != "ab" {
		t.Errorf("saw %q, %v", seen.String(), err)
	}
}

func copies(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return tx.Put("b", "k", []byte("value")) })
	var kept []byte
	_ = s.View(func(tx store.Tx) (err error) {
		kept, err = tx.Get("b", "k")
		return err
	})
	kept[0] = 'X'
	_ = s.View(func(tx store.Tx) error {
		if again, _ := tx.Get("b", "k"); string(again) != "value" {
			t.Errorf("a reader changed the store: %q", again)
		}
		return nil
	})
}

func turns(t *testing.T, s store.Store) {
	const writers, rounds = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				err := s.Update(func(tx store.Tx) error {
					n, err := store.Get[int](tx, "b", "n")
					if err != nil && !errors.Is(err, store.ErrNotFound) {
						return err
					}
					return store.Put(tx, "b", "n", n+1)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_ = s.View(func(tx store.Tx) error {
		if n, err := store.Get[int](tx, "b", "n"); n != writers*rounds {
			return fmt.Errorf("counted %d, want %d: %w", n, writers*rounds, err)
		}
		return nil
	})
}

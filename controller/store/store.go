// Package store is the controller's key-value store: named buckets of keys, read
// and written in transactions. The embedded implementation is in store/bolt; every
// implementation passes the suite in store/storetest.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Errors of every implementation.
var (
	ErrNotFound = errors.New("not found")
	ErrNewer    = errors.New("the state was written by a newer version of this program; " +
		"it is left as it is: install that version")
	ErrCorrupt = errors.New("the state is damaged; it is left as it is: restore it from a backup")
	ErrLocked  = errors.New("another process has the state open: is a controller running?")
)

// Store is safe for concurrent use. An Update is all or nothing, and durable when
// it returns nil; updates take turns.
type Store interface {
	View(func(Tx) error) error
	Update(func(Tx) error) error
	Close() error // idempotent
}

// Tx is one transaction, valid until its function returns. Values that it hands
// out are copies.
type Tx interface {
	// Get returns [ErrNotFound] for a key that is not there.
	Get(bucket, key string) ([]byte, error)
	Put(bucket, key string, value []byte) error
	// Delete of a key that is not there is no error.
	Delete(bucket, key string) error
	// Each calls f in the order of the keys until f returns an error. f must not
	// write to the bucket.
	Each(bucket string, f func(key string, value []byte) error) error
}

// Get reads the JSON value of a key.
func Get[T any](tx Tx, bucket, key string) (T, error) {
	var v T
	b, err := tx.Get(bucket, key)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%s %s: %w", bucket, key, ErrCorrupt)
	}
	return v, nil
}

// Put writes a key's value as JSON.
func Put[T any](tx Tx, bucket, key string, v T) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", bucket, key, err)
	}
	return tx.Put(bucket, key, b)
}

// All reads every JSON value of a bucket, in the order of the keys.
func All[T any](tx Tx, bucket string) ([]T, error) {
	var all []T
	err := tx.Each(bucket, func(key string, b []byte) error {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("%s %s: %w", bucket, key, ErrCorrupt)
		}
		all = append(all, v)
		return nil
	})
	return all, err
}

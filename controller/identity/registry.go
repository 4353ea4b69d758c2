package identity

import (
	"errors"
	"fmt"

	"github.com/postern-sdp/postern/controller/store"
)

// Buckets of the store.
const (
	tokenBucket   = "tokens"
	machineBucket = "machines"
	nameBucket    = "machine-names" // ROLE/NAME -> id of the live machine
	serviceBucket = "services"
)

// Registry is the record of identities, over a store. It is safe for concurrent
// use; what a method acknowledged is durable.
type Registry struct{ store store.Store }

// New returns the registry in s.
func New(s store.Store) *Registry { return &Registry{s} }

// unknown turns the store's "not found" into this package's.
func unknown(err error, what string) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%s: %w", what, ErrUnknown)
	}
	return err
}

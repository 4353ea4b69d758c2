package policy

import (
	"errors"
	"fmt"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
)

const grantBucket = "grants"

// OriginCommand marks the grants that were added by command.
const OriginCommand = "command"

// ErrNoGrant is returned when there is no such grant to remove.
var ErrNoGrant = errors.New("no such grant was added by command; one of the policy file is removed there")

// Book keeps the grants that administrators add by command: one user, one service.
type Book struct{ store store.Store }

// NewBook returns the book in s.
func NewBook(s store.Store) *Book { return &Book{s} }

func bookKey(user, service string) string { return user + " " + service }

// Add grants user the service, or replaces the length of an earlier grant.
func (b *Book) Add(user, service string, length control.Duration) error {
	g := Grant{Users: []string{user}, Services: []string{service}, For: length, Origin: OriginCommand}
	if err := g.Validate(); err != nil {
		return fmt.Errorf("add grant: %w", err)
	}
	return b.store.Update(func(tx store.Tx) error {
		return store.Put(tx, grantBucket, bookKey(user, service), g)
	})
}

// Remove takes the grant of that user and service back.
func (b *Book) Remove(user, service string) error {
	return b.store.Update(func(tx store.Tx) error {
		k := bookKey(user, service)
		if _, err := tx.Get(grantBucket, k); errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("remove grant %s: %w", k, ErrNoGrant)
		} else if err != nil {
			return err
		}
		return tx.Delete(grantBucket, k)
	})
}

// List returns all grants of the book.
func (b *Book) List() (all []Grant, err error) {
	err = b.store.View(func(tx store.Tx) error {
		all, err = store.All[Grant](tx, grantBucket)
		return err
	})
	return all, err
}

package identity

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// Machine is one enrolled machine: a client's device or a host.
type Machine struct {
	ID        key.ID       `json:"id"`
	Role      control.Role `json:"role"`
	Name      string       `json:"name"`
	User      string       `json:"user,omitempty"` // whom a device acts for
	PublicKey []byte       `json:"public_key"`     // PKIX
	Created   time.Time    `json:"created"`
	Revoked   time.Time    `json:"revoked,omitzero"` // zero while it is live
	// Knock is the knock secret of a live machine. It is never part of JSON for people.
	Knock key.Knock `json:"-"`
}

// storedMachine is the form in the store; a revoked machine has no secret left.
type storedMachine struct {
	Machine
	Secret *secret `json:"secret,omitempty"`
}

func (s storedMachine) open() (Machine, error) {
	if !s.Revoked.IsZero() {
		return s.Machine, nil
	}
	if s.Secret == nil || s.Secret.IsZero() {
		return Machine{}, fmt.Errorf("machine %s: %w", s.ID, store.ErrCorrupt)
	}
	s.Machine.Knock = s.Secret.Knock
	return s.Machine, nil
}

func putMachine(tx store.Tx, m Machine) error {
	s := storedMachine{Machine: m}
	if m.Revoked.IsZero() {
		s.Secret = &secret{m.Knock}
	}
	return store.Put(tx, machineBucket, m.ID.String(), s)
}

func machine(tx store.Tx, id key.ID) (Machine, error) {
	s, err := store.Get[storedMachine](tx, machineBucket, id.String())
	if err != nil {
		return Machine{}, unknown(err, "machine "+id.String())
	}
	return s.open()
}

func nameKey(role control.Role, name string) string { return string(role) + "/" + name }

func nameFree(tx store.Tx, role control.Role, name string) error {
	_, err := tx.Get(nameBucket, nameKey(role, name))
	switch {
	case err == nil:
		return fmt.Errorf("%s %s: %w", role, name, ErrTaken)
	case errors.Is(err, store.ErrNotFound):
		return nil
	}
	return err
}

// Machine returns the machine of that id, also a revoked one.
func (r *Registry) Machine(id key.ID) (m Machine, err error) {
	err = r.store.View(func(tx store.Tx) error {
		m, err = machine(tx, id)
		return err
	})
	return m, err
}

// Live returns the machine of that id, or [ErrRevoked] or [ErrUnknown].
func (r *Registry) Live(id key.ID) (Machine, error) {
	m, err := r.Machine(id)
	if err == nil && !m.Revoked.IsZero() {
		return Machine{}, fmt.Errorf("machine %s: %w", m.Name, ErrRevoked)
	}
	return m, err
}

// Find returns the live machine of that role and name, or of that id.
func (r *Registry) Find(role control.Role, nameOrID string) (m Machine, err error) {
	err = r.store.View(func(tx store.Tx) error {
		text, err := tx.Get(nameBucket, nameKey(role, nameOrID))
		if err != nil {
			text = []byte(nameOrID)
		}
		id, err := key.ParseID(string(text))
		if err != nil {
			return fmt.Errorf("%s %q: %w", role, nameOrID, ErrUnknown)
		}
		m, err = machine(tx, id)
		if err == nil && (m.Role != role || !m.Revoked.IsZero()) {
			return fmt.Errorf("%s %q: %w", role, nameOrID, ErrUnknown)
		}
		return err
	})
	return m, err
}

// Machines lists the machines of a role, revoked ones included.
func (r *Registry) Machines(role control.Role) ([]Machine, error) {
	var of []Machine
	err := r.store.View(func(tx store.Tx) error {
		all, err := store.All[storedMachine](tx, machineBucket)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.Role != role {
				continue
			}
			m, err := s.open()
			if err != nil {
				return err
			}
			of = append(of, m)
		}
		return nil
	})
	return of, err
}

// Revoke ends a machine's identity: its knock secret is erased, its name is free
// again, its record stays. A host must have no services left.
func (r *Registry) Revoke(id key.ID, now time.Time) (m Machine, err error) {
	err = r.store.Update(func(tx store.Tx) error {
		m, err = machine(tx, id)
		if err != nil || !m.Revoked.IsZero() {
			return err
		}
		services, err := store.All[Service](tx, serviceBucket)
		if err != nil {
			return err
		}
		for _, s := range services {
			if s.Host == id {
				return fmt.Errorf("host %s, service %s: %w", m.Name, s.Name, ErrHasServices)
			}
		}
		m.Revoked = now.UTC()
		m.Knock = key.Knock{}
		return errors.Join(putMachine(tx, m), tx.Delete(nameBucket, nameKey(m.Role, m.Name)))
	})
	if err != nil {
		return Machine{}, fmt.Errorf("revoke: %w", err)
	}
	return m, nil
}

// Rekey replaces a live machine's public key.
func (r *Registry) Rekey(id key.ID, publicKey []byte) error {
	return r.store.Update(func(tx store.Tx) error {
		m, err := machine(tx, id)
		switch {
		case err != nil:
			return err
		case !m.Revoked.IsZero():
			return ErrRevoked
		case len(publicKey) == 0:
			return ErrPublicKey
		}
		m.PublicKey = publicKey
		return putMachine(tx, m)
	})
}

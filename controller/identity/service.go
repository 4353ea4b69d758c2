package identity

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// Service is one named target behind one host.
type Service struct {
	Name   string `json:"name"`
	Host   key.ID `json:"host"`
	Target string `json:"target"` // host:port that the host dials; of a direct one, the port counts
	control.Access
	// Listed shows the service to devices that may not reach it, too.
	Listed  bool      `json:"listed,omitempty"`
	Created time.Time `json:"created"`
}

// AddService makes a service of a live host.
func (r *Registry) AddService(s Service) error {
	if err := errors.Join(CheckName(s.Name), s.Access.Validate(), s.checkTarget()); err != nil {
		return fmt.Errorf("add service: %w", err)
	}
	err := r.store.Update(func(tx store.Tx) error {
		if _, err := tx.Get(serviceBucket, s.Name); err == nil {
			return fmt.Errorf("service %s: %w", s.Name, ErrTaken)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		host, err := machine(tx, s.Host)
		if err != nil {
			return err
		}
		if host.Role != control.RoleHost || !host.Revoked.IsZero() {
			return fmt.Errorf("host %s: %w", s.Host, ErrUnknown)
		}
		return store.Put(tx, serviceBucket, s.Name, s)
	})
	if err != nil {
		return fmt.Errorf("add service: %w", err)
	}
	return nil
}

// Service returns the service of that name.
func (r *Registry) Service(name string) (s Service, err error) {
	err = r.store.View(func(tx store.Tx) error {
		s, err = store.Get[Service](tx, serviceBucket, name)
		return unknown(err, "service "+name)
	})
	return s, err
}

// Services lists all services, by name.
func (r *Registry) Services() (all []Service, err error) {
	err = r.store.View(func(tx store.Tx) error {
		all, err = store.All[Service](tx, serviceBucket)
		return err
	})
	return all, err
}

// RemoveService removes the service of that name.
func (r *Registry) RemoveService(name string) error {
	return r.store.Update(func(tx store.Tx) error {
		if _, err := tx.Get(serviceBucket, name); err != nil {
			return unknown(err, "service "+name)
		}
		return tx.Delete(serviceBucket, name)
	})
}

// Port is the target's, 0 when it has none.
func (s Service) Port() uint16 {
	_, port, _ := net.SplitHostPort(s.Target)
	n, _ := strconv.ParseUint(port, 10, 16) // checked when the service was added
	return uint16(n)
}

// checkTarget reports whether the host can dial the target or, for a direct service,
// open its port.
func (s Service) checkTarget() error {
	if _, port, ok := strings.Cut(s.Target, ":"); ok && s.Mode == control.ModeDirect {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 && strings.HasPrefix(s.Target, ":") {
			return nil
		}
	}
	return checkTarget(s.Target)
}

package protect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// Bounds of a trial.
const (
	MinTrial = time.Second
	MaxTrial = 24 * time.Hour
)

// Switch puts a host's rules in force and takes them back.
type Switch struct {
	Store    Store
	Firewall firewall.Firewall
	Rules    firewall.Rules // the configured ones
	Backend  string         // that Firewall is of, to be noted for the next boot
	// Latest, if set, returns the configured rules where Rules may be older than the
	// record that is acted on; ok is false when those in force are to be left alone.
	Latest func(context.Context, Record) (rules firewall.Rules, ok bool)
}

// Way is an administrator's way in.
type Way struct {
	Source netip.Prefix `json:"source"`
	Port   uint16       `json:"port"` // TCP; 0: all
}

// Begin puts the rules in force: for good when trial is 0, else on trial, while
// which the ways stay open. login is the one that begins it.
func (s Switch) Begin(ctx context.Context, trial time.Duration, ways []Way,
	login string) (Record, error) {
	if trial != 0 && (trial < MinTrial || trial > MaxTrial) {
		return Record{}, fmt.Errorf("%w: %s", ErrTrial, trial)
	}
	return s.change(ctx, func(r *Record, c Clock) error {
		*r = Record{State: On, Boot: c.Boot, Login: login, Backend: s.Backend}
		if trial == 0 {
			return nil
		}
		r.State, r.Until = Trial, c.Now+trial
		for _, w := range ways {
			r.Admins = append(r.Admins, Admin{Way: w, Until: r.Until})
		}
		return nil
	})
}

// Confirm ends the trial and leaves the rules in force. login must be another one
// than began it, unless force. The administrators' ways in stay for keep. A record
// that cannot be read may have been a trial's.
func (s Switch) Confirm(ctx context.Context, login string, force bool, keep time.Duration) (Record, error) {
	return s.change(ctx, func(r *Record, c Clock) error {
		if err := r.Confirmable(c, login); err != nil && !(force && errors.Is(err, ErrSameLogin)) {
			return err
		}
		r.State, r.Until, r.Login = On, 0, ""
		r.Boot, r.Backend, r.unread = c.Boot, s.Backend, false
		for i := range r.Admins {
			r.Admins[i].Until = c.Now + keep
		}
		if keep <= 0 {
			r.Admins = nil
		}
		return nil
	})
}

// Confirmable returns why a login may not confirm the record, if so.
func (r Record) Confirmable(c Clock, login string) error {
	switch {
	case r.At(c) != Trial && !r.unread:
		return ErrNoTrial
	case login != "" && login == r.Login:
		return ErrSameLogin
	}
	return nil
}

// Revert takes the rules away.
func (s Switch) Revert(ctx context.Context) error {
	_, err := s.change(ctx, func(r *Record, c Clock) error {
		*r = Record{State: Off, Boot: c.Boot, Backend: r.Backend}
		return nil
	})
	return err
}

func (s Switch) change(ctx context.Context, change func(*Record, Clock) error) (made Record, err error) {
	err = s.Store.Change(ctx, change, func(r Record, c Clock) error {
		made = r
		return s.enforce(ctx, r, c)
	})
	return made, err
}

// Restore brings the rules to what the record says, and returns what that is. Of
// a trial that is over it takes down the record as well. At boot, this is what makes
// the host dark. When the record cannot be read or locked, the rules are put in force,
// and the error is [ErrUnsure]; [ErrBusy] leaves all to whoever is at work.
func (s Switch) Restore(ctx context.Context) (State, error) {
	var state State
	held, over := false, false
	err := s.Store.Hold(ctx, func(r Record, c Clock) error {
		held, state = true, r.At(c)
		over = state == Off && r.State == Trial
		return s.enforce(ctx, r, c)
	})
	if err != nil && !held && !errors.Is(err, ErrBusy) {
		return s.restoreUnsure(ctx, err)
	}
	if err == nil && over {
		err = s.Store.Change(ctx, func(r *Record, c Clock) error {
			if r.State == Trial && r.At(c) == Off {
				*r = Record{State: Off, Boot: c.Boot, Backend: r.Backend}
			}
			return nil
		}, func(Record, Clock) error { return nil })
	}
	return state, err
}

// restoreUnsure is for a record that fault keeps from being read or locked. What can be
// read holds; if nothing can, nobody knows that the rules shall not be in force.
func (s Switch) restoreUnsure(ctx context.Context, fault error) (State, error) {
	r, c, _ := s.Store.Read() // its error is in fault
	state := r.At(c)
	if state == Off {
		return Off, fault
	}
	if err := s.enforce(ctx, r, c); err != nil {
		// Not to be taken for [ErrUnsure] or what is behind it: nothing is in force.
		return state, fmt.Errorf("%w; beside that: %v", err, fault)
	}
	return state, fmt.Errorf("%w: %w", ErrUnsure, fault)
}

func (s Switch) enforce(ctx context.Context, r Record, c Clock) error {
	if r.At(c) == Off {
		if err := s.Firewall.Remove(ctx); err != nil {
			return fmt.Errorf("take the rules away: %w", err)
		}
		return nil
	}
	configured, ok := s.Rules, true
	if s.Latest != nil {
		configured, ok = s.Latest(ctx, r)
	}
	if !ok {
		return nil
	}
	rules, _ := r.Rules(configured, c)
	if err := s.Firewall.Install(ctx, rules); err != nil {
		return fmt.Errorf("put the rules in force: %w", err)
	}
	return nil
}

package protect

import (
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// State says whether the rules are in force.
type State string

// The states.
const (
	Off   State = "off"
	Trial State = "trial"
	On    State = "on"
)

// Record is what was decided about this host.
type Record struct {
	Version int   `json:"version"`
	State   State `json:"state"`
	// Boot is the boot that the times below count in; in another one they are over.
	Boot string `json:"boot"`
	// Until is when a trial ends, on the boot clock.
	Until time.Duration `json:"until,omitempty"`
	// Admins are let in besides the configured keep rules.
	Admins []Admin `json:"admins,omitempty"`
	// Login is the one that began the trial, and must not confirm it.
	Login string `json:"login,omitempty"`
	// Backend is the firewall's that was used last: at boot the rules of others, by
	// which it was chosen, may not be there yet.
	Backend string `json:"backend,omitempty"`
	// Since is the wall clock's time of the last change, for people.
	Since time.Time `json:"since"`

	unread bool // it stands for one that could not be read
}

// unreadable stands for a record that could not be read: nobody knows that the
// rules shall not be in force.
func unreadable() Record { return Record{State: On, unread: true} }

// Admin is an administrator's own way in, for a time.
type Admin struct {
	Way
	Until time.Duration `json:"until"`
}

// Clock is the running boot and the time in it.
type Clock struct {
	Boot string
	Now  time.Duration
}

// At returns what the record means now: a trial that is over, or began in another
// boot, is off.
func (r Record) At(c Clock) State {
	switch {
	case r.State == On:
		return On
	case r.State == Trial && r.Boot == c.Boot && r.Until > c.Now:
		return Trial
	}
	return Off
}

// Left is how long a trial still lasts.
func (r Record) Left(c Clock) time.Duration {
	if r.At(c) != Trial {
		return 0
	}
	return r.Until - c.Now
}

// Rules adds to the configured rules what the record says. They are to be installed
// unless the state is [Off].
func (r Record) Rules(configured firewall.Rules, c Clock) (firewall.Rules, State) {
	state := r.At(c)
	rules := configured
	rules.Keep = append([]firewall.Keep(nil), configured.Keep...)
	if state == Off {
		return rules, Off
	}
	rules.Trial = r.Left(c)
	for _, a := range r.Admins {
		if r.Boot != c.Boot || a.Until <= c.Now {
			continue
		}
		rules.Keep = append(rules.Keep, a.Keep(a.Until-c.Now))
	}
	return rules, state
}

// Keep is the rule that lets the way in for a time.
func (w Way) Keep(left time.Duration) firewall.Keep {
	k := firewall.Keep{Source: w.Source, TTL: left}
	if w.Port != 0 {
		k.Ports = []firewall.Port{{Protocol: firewall.TCP, Number: w.Port}}
	}
	return k
}

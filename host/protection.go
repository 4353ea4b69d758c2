package host

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// decisionsEvery is how often the agent looks whether an administrator has changed
// what is decided about the host's protection.
const decisionsEvery = 500 * time.Millisecond

// decided brings the table to what is decided about the host, and returns what that
// is. Without a store of decisions, the rules are always in force.
func (b *sessions) decided(ctx context.Context) (protect.State, error) {
	if b.protection == nil {
		b.state = protect.On
		return protect.On, b.fw.Install(ctx, aged(b.rules, b.now()-b.ruled))
	}
	if _, _, err := b.protection.Read(); err != nil && b.state == protect.Off {
		return b.state, nil // what this agent has read itself holds until its next start
	}
	s := protect.Switch{Store: *b.protection, Firewall: b.fw, Latest: b.latest}
	state, err := s.Restore(ctx)
	if errors.Is(err, protect.ErrUnsure) {
		b.log.Error("THE RECORD OF THE PROTECTION CANNOT BE RELIED ON, and so the rules are in force: "+
			"postern-host protect, or unprotect, decides anew", logkeys.Error, err)
		err = nil
	}
	if err != nil {
		return state, err
	}
	if state != b.state {
		b.log.Warn("protection of this host", logkeys.State, state, logkeys.Reason, explainState(state))
	}
	b.state = state
	return state, nil
}

// aged returns rules as they are after a time: keep rules that ended since are gone,
// and the others have that much less left.
func aged(rules firewall.Rules, by time.Duration) firewall.Rules {
	var keep []firewall.Keep
	for _, k := range rules.Keep {
		if k.TTL > 0 {
			if k.TTL -= by; k.TTL <= 0 {
				continue
			}
		}
		keep = append(keep, k)
	}
	rules.Keep = keep
	return rules
}

func explainState(s protect.State) string {
	switch s {
	case protect.On:
		return "its rules are in force"
	case protect.Trial:
		return "its rules are in force until the trial is over: postern-host confirm makes them stay"
	}
	return "STRANGERS SEE WHAT LISTENS HERE: postern-host protect hides it"
}

// latest returns the configured rules for acting on a decision. The command that made
// it has read the configuration anew, and so the agent does, once for each decision.
// When it cannot be read, what the command put in force is left alone.
func (b *sessions) latest(ctx context.Context, r protect.Record) (firewall.Rules, bool) {
	if b.reread != nil && !reflect.DeepEqual(r, b.read) {
		configured, err := b.reread()
		if err == nil {
			err = b.judge(configured)
		}
		if err == nil {
			b.read = r
		} else {
			b.log.Error("configuration not taken with the decision about the protection", logkeys.Error, err)
			if _, missing := b.fw.List(ctx); missing == nil {
				return firewall.Rules{}, false
			}
		}
	}
	return aged(b.rules, b.now()-b.ruled), true
}

// followDecision looks whether the decision has changed, or a trial has ended, and
// brings the kernel to it, never with older rules than those of the command that
// changed it.
func (b *sessions) followDecision(ctx context.Context) {
	if b.protection == nil {
		return
	}
	r, clock, err := b.protection.Read()
	if err != nil {
		if !b.unread {
			b.log.Error("the decision about the protection cannot be read, all stays as it is",
				logkeys.Error, err)
		}
		b.unread = true
		return
	}
	b.unread = false
	state := r.At(clock)
	over := state == protect.Off && r.State == protect.Trial
	if state == b.state && !over && reflect.DeepEqual(r, b.last) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	if over {
		b.log.Warn("nobody confirmed the protection: the trial is over, the rules are taken away")
	}
	_, err = b.decided(ctx)
	if errors.Is(err, protect.ErrBusy) {
		b.log.Info("the decision about the protection is not carried out yet", logkeys.Error, err)
		return
	}
	if err != nil {
		b.log.Error("the decision about the protection is not carried out yet", logkeys.Error, err)
		return
	}
	b.last = r
	b.postponed = false // it is done with this
	b.reconcile(ctx)
}

// decidedAnew reports whether the decision is another one than was last followed.
func (b *sessions) decidedAnew() bool {
	if b.protection == nil {
		return false
	}
	r, _, err := b.protection.Read()
	return err == nil && !reflect.DeepEqual(r, b.last)
}

// reinstall brings a table back that somebody removed, with all pinholes, unless
// it is decided that there is to be none.
func (b *sessions) reinstall(ctx context.Context) error {
	state, err := b.decided(ctx)
	if err != nil || state == protect.Off {
		return err
	}
	b.log.Error("the firewall's table was gone, it is installed again")
	return b.transact(ctx, firewall.Change{Open: b.holes.all(b.now())})
}

// install makes the host dark if that is decided, and returns the pinholes that
// the kernel holds.
func (b *sessions) install(ctx context.Context) ([]firewall.Pinhole, error) {
	if b.protection != nil {
		b.last, _, _ = b.protection.Read() // before it is acted on: what changes after that is seen
	}
	if _, err := b.decided(ctx); err != nil {
		return nil, fmt.Errorf("install firewall: %w", err)
	}
	kernel, err := b.fw.List(ctx)
	if errors.Is(err, firewall.ErrNotInstalled) && b.state == protect.Off {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinholes: %w", err)
	}
	return kernel, nil
}

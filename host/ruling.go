package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// ruleDrift is how far the time may be from the one that keep rules were last judged
// by, until they are judged anew.
const ruleDrift = 5 * time.Second

// ruling returns the configured rules as they are at a time: a keep rule's until is
// over, or so far away.
type ruling func(now time.Time) (firewall.Rules, error)

// RulesAt returns what the host's firewall leaves open besides pinholes at a time:
// the administrator's keep rules and nothing else.
func (s Settings) RulesAt(now time.Time) (firewall.Rules, error) {
	keep, err := config.KeepRules(s.Keep, now)
	if err != nil {
		return firewall.Rules{}, err
	}
	rules := firewall.Rules{Keep: keep, Inside: s.Firewall.Inside}
	return rules, rules.Validate()
}

// ruleTime is the time that keep rules are judged by: the controller's as soon as it
// is known, which is sure, and until then this machine's, whose clock may have started
// anywhere, but not before the certificate was made. Dates are local ones.
func (a *agent) ruleTime() (now time.Time, sure bool) {
	if !a.clock.atBoot().IsZero() {
		return a.clock.now().Local(), true
	}
	now = time.Now()
	if begun := a.identity.Leaf().NotBefore; begun.After(now) {
		now = begun.Local()
	}
	return now, false
}

// judge makes configured the rules, as they are now.
func (b *sessions) judge(configured ruling) error {
	now := time.Now()
	if b.time != nil {
		now, _ = b.time()
	}
	rules, err := configured(now)
	if err != nil {
		return err
	}
	b.configured, b.rules = configured, rules
	// Without Go's monotonic reading, in which a clock that is set does not show.
	b.ruled, b.judged = b.now(), now.Round(0)
	return nil
}

// rejudge judges the rules anew when their time has turned out to be another one. It
// is the controller's word that may give a rule more time; a clock of this machine's
// that goes back does not, for whoever sets it would open the host.
func (b *sessions) rejudge(ctx context.Context) {
	if b.configured == nil || b.time == nil {
		return
	}
	now, sure := b.time()
	off := now.Sub(b.judged.Add(b.now() - b.ruled))
	if off.Abs() <= ruleDrift || off < 0 && !sure {
		return
	}
	before := aged(b.rules, b.now()-b.ruled)
	if err := b.judge(b.configured); err != nil {
		b.log.Error("keep rules not judged by the time as it is now", logkeys.Error, err)
		return
	}
	if !timedRules(before) && !timedRules(b.rules) {
		return
	}
	b.log.Warn("the time is another than keep rules were judged by, they are installed anew",
		logkeys.Duration, off)
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	if err := b.reinstallRules(ctx); err != nil {
		b.postponed = true
		b.log.Error("keep rules not installed anew, will try again", logkeys.Error, err)
	}
}

// timedRules reports whether one of the rules ends by itself.
func timedRules(rules firewall.Rules) bool {
	for _, k := range rules.Keep {
		if k.TTL > 0 {
			return true
		}
	}
	return false
}

// reinstallRules brings changed rules to the kernel. Where there is no table now,
// reconciling knows whether there is to be one.
func (b *sessions) reinstallRules(ctx context.Context) error {
	_, err := b.fw.List(ctx)
	if err == nil {
		_, err = b.decided(ctx)
	}
	switch {
	case errors.Is(err, protect.ErrBusy):
		b.postponed = true
		return nil
	case errors.Is(err, firewall.ErrNotInstalled):
		return nil
	case err != nil:
		return fmt.Errorf("install firewall: %w", err)
	}
	return nil
}

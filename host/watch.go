package host

import (
	"context"
	"errors"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// watch has the owner look as soon as the firewall hears that somebody else changed
// its rules, until ctx ends. Where it cannot hear, the owner installs them anew each
// time that listening fails: what was missed meanwhile is undone.
func (b *sessions) watch(ctx context.Context) error {
	w, ok := b.fw.(firewall.Watcher)
	if !ok {
		return nil
	}
	for {
		err := w.Watch(ctx, func() { b.disturb(true) })
		if ctx.Err() != nil {
			return nil
		}
		b.log.Error("changes of the firewall by others are not heard of, its rules are installed anew meanwhile",
			logkeys.Error, err, logkeys.Duration, reconcileEvery)
		b.disturb(false)
		pause := time.NewTimer(reconcileEvery)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// disturb has the owner look at the rules.
func (b *sessions) disturb(heard bool) {
	select {
	case b.disturbed <- heard:
	default: // it was told and has not looked yet
	}
}

// mend brings rules back that somebody else took away or altered, and the pinholes
// with them, unless that was an administrator's decision.
func (b *sessions) mend(ctx context.Context, heard bool) {
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	command := b.decidedAnew() // and changed the rules by right
	state, err := b.decided(ctx)
	if err == nil && state != protect.Off {
		if heard && !command {
			b.log.Warn("another process took away or changed the firewall's rules, they are installed again")
		}
		err = b.transact(ctx, firewall.Change{Open: b.holes.all(b.now())})
	}
	b.postponed = errors.Is(err, protect.ErrBusy)
	if err != nil && !b.postponed {
		b.stale = true
		b.log.Error("firewall not checked, will try again", logkeys.Error, err)
	}
}

// resume does what was put off because a command was at work on the protection.
func (b *sessions) resume(ctx context.Context) {
	if b.postponed {
		b.mend(ctx, true)
	}
}

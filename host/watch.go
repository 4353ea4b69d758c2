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
// its rules, until ctx ends. Where it does not hear, the regular looks remain.
func (b *sessions) watch(ctx context.Context) error {
	w, ok := b.fw.(firewall.Watcher)
	if !ok {
		return nil
	}
	for {
		err := w.Watch(ctx, func() {
			select {
			case b.disturbed <- struct{}{}:
			default: // the owner has been told and has not looked yet
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		b.log.Error("changes of the firewall by others are noticed at the regular looks only",
			logkeys.Error, err, logkeys.Duration, reconcileEvery)
		pause := time.NewTimer(reconcileEvery)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// mend brings rules back that somebody else took away or altered, and the pinholes
// with them, unless that was an administrator's decision.
func (b *sessions) mend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	command := b.decidedAnew() // and changed the rules by right
	state, err := b.decided(ctx)
	if err == nil && state != protect.Off {
		if !command {
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
		b.mend(ctx)
	}
}

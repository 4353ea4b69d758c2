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
	limited, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	_, err := b.fw.List(limited)
	switch {
	case errors.Is(err, firewall.ErrNotInstalled):
		err = b.reinstall(limited)
	case err == nil:
		since := b.since
		if b.followDecision(ctx); b.since != since || b.state == protect.Off {
			return
		}
		b.log.Warn("somebody changed the firewall's rules, they are installed anew")
		_, err = b.decided(limited)
	}
	if err != nil {
		b.stale = true
		b.log.Error("firewall not checked, will try again", logkeys.Error, err)
	}
}

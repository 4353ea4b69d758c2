package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/logkeys"
)

const (
	firewallLimit = 10 * time.Second // for work on the kernel's rules that nobody waits for
	watchRetry    = 10 * time.Second
	checkInterval = 10 * time.Second
)

// rulesFunc returns the controller's rules as they are now: keep rules end.
type rulesFunc func() (firewall.Rules, error)

// install puts the controller's rules in place and shuts what an earlier run
// left open of the control port: no connection outlives its controller.
func (d *door) install(ctx context.Context, rules rulesFunc) error {
	if d.firewall == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = rules
	if err := d.installLocked(ctx); err != nil {
		return err
	}
	old, err := d.firewall.List(ctx)
	if err != nil {
		return fmt.Errorf("list the controller's pinholes: %w", err)
	}
	return d.applyLocked(ctx, firewall.Change{Revoke: old})
}

func (d *door) installLocked(ctx context.Context) error {
	rules, err := d.rules()
	if err != nil {
		return err
	}
	if err := d.firewall.Install(ctx, rules); err != nil {
		return fmt.Errorf("install the controller's firewall: %w", err)
	}
	return nil
}

// check looks whether the rules are still there, and puts them back when somebody
// took them away, as `nft flush ruleset` does.
func (d *door) check(ctx context.Context) {
	if d.firewall == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	_, err := d.firewall.List(ctx)
	switch {
	case errors.Is(err, firewall.ErrNotInstalled):
		d.mend(ctx, true)
	case err != nil && ctx.Err() == nil:
		d.log.Error("rules of the controller's firewall", logkeys.Error, err)
	}
}

// watch has the rules put back as soon as the firewall hears that somebody changed them,
// until ctx ends. Where it cannot hear, they are put back each time that listening fails:
// what was missed meanwhile is undone.
func (d *door) watch(ctx context.Context) error {
	w, ok := d.firewall.(firewall.Watcher)
	if !ok {
		return nil
	}
	disturbed := make(chan bool, 1) // true when the kernel told so
	disturb := func(heard bool) {
		select {
		case disturbed <- heard:
		default: // it is to be mended already
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for ctx.Err() == nil {
			err := w.Watch(ctx, func() { disturb(true) })
			if ctx.Err() == nil {
				d.log.Error("changes of the firewall by others are not heard of, its rules are installed anew meanwhile",
					logkeys.Error, err, logkeys.Duration, watchRetry)
				disturb(false)
				pause(ctx, watchRetry)
			}
		}
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case heard := <-disturbed:
				d.mend(ctx, heard)
			}
		}
	})
	return g.Wait()
}

// mend installs the rules anew, with all that is to be open in them. It is an alarm when
// somebody is known to have changed them.
func (d *door) mend(ctx context.Context, known bool) {
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.restoreLocked(ctx, known); err != nil && ctx.Err() == nil {
		d.log.Error("rules of the controller's firewall", logkeys.Error, err)
	}
}

// restoreLocked puts the rules back with all that is to be open in them.
func (d *door) restoreLocked(ctx context.Context, alarm bool) error {
	if err := d.installLocked(ctx); err != nil {
		return err
	}
	if alarm {
		d.log.Error("another process took away or changed the controller's rules, they are installed again")
	}
	err := d.sendLocked(ctx, firewall.Change{Open: d.openingsLocked(time.Now())})
	if err != nil {
		return fmt.Errorf("open the controller's pinholes again: %w", err)
	}
	return nil
}

// openingsLocked returns every pinhole that somebody needs at now.
func (d *door) openingsLocked(now time.Time) []firewall.Pinhole {
	var open []firewall.Pinhole
	wide := make(map[netip.Addr]time.Duration)
	for _, a := range d.admissions {
		if left := a.until.Sub(now); a.wide.IsValid() && left > 0 {
			wide[a.wide] = max(wide[a.wide], left)
		}
	}
	for source, left := range wide {
		open = append(open, d.pinhole(netip.AddrPortFrom(source, 0), left))
	}
	for source := range d.sources {
		open = append(open, d.pinhole(source, exactTTL))
	}
	return open
}

// pinhole is the opening of the control port for source; port 0 means any.
func (d *door) pinhole(source netip.AddrPort, ttl time.Duration) firewall.Pinhole {
	return firewall.Pinhole{
		Protocol: firewall.UDP, Source: source.Addr(), SourcePort: source.Port(), Port: d.port, TTL: ttl,
	}
}

// withoutOpening leaves p out of holes: what is opened in the same change is not
// to be revoked by it.
func withoutOpening(holes []firewall.Pinhole, p firewall.Pinhole) []firewall.Pinhole {
	return slices.DeleteFunc(holes, func(h firewall.Pinhole) bool { return h.Opening() == p.Opening() })
}

// applyLocked changes the kernel's pinholes, in rules that it puts back first if they
// are gone.
func (d *door) applyLocked(ctx context.Context, change firewall.Change) error {
	if d.firewall == nil || len(change.Open)+len(change.Revoke) == 0 {
		return nil
	}
	err := d.sendLocked(ctx, change)
	if errors.Is(err, firewall.ErrNotInstalled) {
		if err = d.restoreLocked(ctx, true); err == nil {
			err = d.sendLocked(ctx, change)
		}
	}
	if err != nil {
		return fmt.Errorf("change the controller's firewall: %w", err)
	}
	return nil
}

// sendLocked sends a change as one, or in pieces when the kernel does not take so many
// pinholes at once.
func (d *door) sendLocked(ctx context.Context, change firewall.Change) error {
	pieces := []firewall.Change{change}
	if len(change.Revoke)+len(change.Open) > firewall.MaxChange {
		pieces = nil
		for some := range slices.Chunk(change.Revoke, firewall.MaxChange) {
			pieces = append(pieces, firewall.Change{Revoke: some})
		}
		for some := range slices.Chunk(change.Open, firewall.MaxChange) {
			pieces = append(pieces, firewall.Change{Open: some})
		}
	}
	for _, piece := range pieces {
		if err := d.firewall.Apply(ctx, piece); err != nil {
			return err
		}
	}
	return nil
}

func (d *door) applyLoggedLocked(change firewall.Change) {
	ctx, cancel := context.WithTimeout(context.Background(), firewallLimit)
	defer cancel()
	if err := d.applyLocked(ctx, change); err != nil {
		d.log.Error("pinholes of the control port", logkeys.Error, err)
	}
}

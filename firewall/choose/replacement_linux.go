package choose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/postern-sdp/postern/firewall"
)

// replacement is a backend that takes over from others when it is installed.
type replacement struct {
	firewall.Firewall

	mu  sync.Mutex // guards old
	old []firewall.Firewall
}

// Install implements [firewall.Firewall]. The new rules come first: for a moment both
// are in force, and nothing gets in that either of them drops.
func (r *replacement) Install(ctx context.Context, rules firewall.Rules) error {
	if err := r.Firewall.Install(ctx, rules); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.old) > 0 {
		if err := r.succeed(ctx, r.old[0]); err != nil {
			return fmt.Errorf("take over from the other backend: %w", err)
		}
		r.old = r.old[1:]
	}
	return nil
}

// succeed carries the pinholes over and removes old.
func (r *replacement) succeed(ctx context.Context, old firewall.Firewall) error {
	open, err := old.List(ctx)
	if err != nil && !errors.Is(err, firewall.ErrNotInstalled) {
		return err
	}
	for some := range slices.Chunk(open, firewall.MaxChange) {
		if err := r.Apply(ctx, firewall.Change{Open: some}); err != nil {
			return err
		}
	}
	if err := old.Remove(ctx); err != nil {
		return err
	}
	return old.Close()
}

// Remove implements [firewall.Firewall]: of the others, too, nothing is left.
func (r *replacement) Remove(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.Firewall.Remove(ctx)
	for _, old := range r.old {
		err = errors.Join(err, old.Remove(ctx))
	}
	return err
}

// Close implements [firewall.Firewall].
func (r *replacement) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.Firewall.Close()
	for _, old := range r.old {
		err = errors.Join(err, old.Close())
	}
	return err
}

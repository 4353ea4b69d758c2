package iptables

import (
	"context"
	"errors"
	"time"
)

// lease is for how long the lock is held at most: longer than all programs of one
// Install may take, should each of them be slow.
const lease = 2 * time.Minute

const lockPause = 3 * time.Millisecond

// lock keeps other processes from changing the same rules. It is an element of a
// set: adding one that is not there yet is atomic, none but the rightful can do
// it, each network namespace has its own, and the kernel ends what a process that
// was killed has left. The returned function gives it back.
func (f *Firewall) lockLocked(ctx context.Context) (unlock func() error, err error) {
	held := element{port: 1, timeout: lease}
	set := f.name.set(lockSet)
	deadline := time.Now().Add(lease + patience)
	for {
		err := f.sets.create(set, portSet(), 0, true)
		if err == nil {
			err = f.sets.addNew(set, held)
		}
		switch {
		case err == nil:
			return func() error { return ignore(f.sets.remove(set, held), errMissing) }, nil
		case errors.Is(err, errThere):
			if time.Now().After(deadline) {
				return nil, ErrBusy
			}
		case errors.Is(err, errMissing): // destroyed in between
		default:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// ignore returns err unless it is what.
func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

package iptables

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// maxServers bounds the machines behind published ports that are remembered.
const maxServers = 65536

// installLocked puts rules up that are not there yet in two steps, the first of
// which knows nothing of connection tracking. The kernel starts tracking as soon as
// it reads a rule that asks for it; were all let through until that rule counts, a
// packet that the host sends on a stranger's connection would make it one of the
// host's own.
func (f *Firewall) installLocked(ctx context.Context, rules firewall.Rules) error {
	f.memory.forget()
	before, err := f.saveBoth(ctx)
	if err != nil {
		return err
	}
	fresh := !before[0].complete(f.name) || !before[1].complete(f.name)
	nothing := !before[0].any(f.name) && !before[1].any(f.name)
	w := writer{name: f.name, rules: rules}
	if err := f.prepareSetsLocked(&w); err != nil {
		return errors.Join(err, f.undoInstallLocked(ctx, before, w, nothing))
	}
	if err := f.replaceLocked(ctx, w, before, fresh); err != nil {
		return errors.Join(err, f.undoInstallLocked(ctx, before, w, nothing))
	}
	if err := f.destroyWhereLocked(ctx, func(suffix string) bool {
		if d, _, ok := parseDoor(suffix); ok {
			return !slices.Contains(w.doors, d) // of a change that was cut short
		}
		g, ok := parseGeneration(suffix)
		return ok && g != w.timers
	}); err != nil {
		return err
	}
	f.memory.keepTimers(w.long, f.now())
	return f.noteLocked()
}

func (f *Firewall) saveBoth(ctx context.Context) (both [2]saved, err error) {
	for _, v6 := range families() {
		if both[of(v6)], err = f.save(ctx, v6); err != nil {
			return both, err
		}
	}
	return both, nil
}

// prepareSetsLocked makes the sets that the rules will refer to, and tells w of
// them.
func (f *Firewall) prepareSetsLocked(w *writer) error {
	suffixes, err := f.suffixes()
	if err != nil {
		return err
	}
	used := make(map[int]bool)
	for _, s := range suffixes {
		if g, ok := parseGeneration(s); ok {
			used[g] = true
		}
	}
	for used[w.timers] {
		w.timers++
	}
	if err := f.sets.create(f.name.set(neverSet), portSet(), 0, false); err != nil {
		return err
	}
	for _, p := range protocols() {
		if err := f.sets.create(f.name.set(doorsSet(p)), portSet(), 0, false); err != nil {
			return err
		}
	}
	for _, v6 := range families() {
		err := f.sets.create(f.name.set(serversSet(v6)), addressPortSet(v6), maxServers, false)
		if err != nil {
			return err
		}
	}
	if err := f.markBootLocked(suffixes); err != nil {
		return err
	}
	doors, err := f.doors()
	if err != nil {
		return err
	}
	w.doors = sortedDoors(doors)
	for _, d := range w.doors {
		if err := f.prepareDoorLocked(d); err != nil {
			return err
		}
	}
	return f.startTimersLocked(w)
}

// markBootLocked marks the sets with the running boot, and closes the pinholes of another
// one. Sets without a mark were made by a version that had none.
func (f *Firewall) markBootLocked(suffixes []string) error {
	if f.boot == "" {
		return nil
	}
	stale := func(suffix string) bool {
		return strings.HasPrefix(suffix, bootMark) && suffix != bootMark+f.boot
	}
	if slices.ContainsFunc(suffixes, stale) {
		for _, s := range suffixes {
			if _, list, ok := parseDoor(s); ok && !list {
				if err := f.sets.flush(f.name.set(s)); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range slices.DeleteFunc(suffixes, func(s string) bool { return !stale(s) }) {
		if err := f.sets.destroy(f.name.set(s)); err != nil {
			return err
		}
	}
	return f.sets.create(f.name.set(bootMark+f.boot), portSet(), 0, false)
}

// replaceLocked writes the chains, and has the built-in ones jump to them.
func (f *Firewall) replaceLocked(ctx context.Context, w writer, before [2]saved, fresh bool) error {
	if fresh {
		if err := f.markLocked(ctx, before); err != nil {
			return err
		}
		if err := f.restoreBothLocked(ctx, w); err != nil {
			return err
		}
	}
	for _, v6 := range families() {
		if err := f.jumpLocked(v6, before[of(v6)]); err != nil {
			return err
		}
	}
	w.tracked = true
	return f.restoreBothLocked(ctx, w)
}

func (f *Firewall) restoreBothLocked(ctx context.Context, w writer) error {
	for _, w.v6 = range families() {
		if err := f.restore(ctx, w.v6, w.text()); err != nil {
			return err
		}
	}
	return nil
}

// jumpLocked puts our jumps in front. A new one comes before the old one goes.
func (f *Firewall) jumpLocked(v6 bool, before saved) error {
	return f.namespace.do(func() error {
		for _, table := range tables() {
			for _, hook := range hooks() {
				if before[table].inFront(f.name, hook) {
					continue
				}
				if err := f.jumps[of(v6)].Insert(table, hook, 1, f.name.jump(hook)...); err != nil {
					return explainRule(err)
				}
				for _, i := range slices.Backward(before[table].jumps(f.name, hook)) {
					if err := f.jumps[of(v6)].DeleteById(table, hook, i+1); err != nil {
						return explainRule(err)
					}
				}
			}
		}
		return nil
	})
}

// undoInstallLocked brings back what was there before an Install that failed.
func (f *Firewall) undoInstallLocked(ctx context.Context, before [2]saved, w writer, nothing bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease/2)
	defer cancel()
	if nothing {
		return f.removeLocked(ctx)
	}
	var err error
	for _, v6 := range families() {
		err = errors.Join(err, f.restore(ctx, v6, before[of(v6)].text(f.name)))
	}
	return errors.Join(err, f.destroyWhereLocked(ctx, func(suffix string) bool {
		g, ok := parseGeneration(suffix)
		return ok && g == w.timers
	}))
}

// destroyWhereLocked destroys some of our sets, by what follows our name. The list
// of a door refers to the door's other sets. The lock goes last.
func (f *Firewall) destroyWhereLocked(ctx context.Context, which func(suffix string) bool) error {
	suffixes, err := f.suffixes()
	if err != nil {
		return err
	}
	slices.SortFunc(suffixes, func(a, b string) int { return removalRank(a) - removalRank(b) })
	for _, s := range suffixes {
		if !which(s) {
			continue
		}
		if err := f.destroyLocked(ctx, f.name.set(s)); err != nil {
			return err
		}
	}
	return nil
}

// destroyLocked destroys a set. With iptables-nft the rules that referred to it
// let go of it only some time after they were deleted.
func (f *Firewall) destroyLocked(ctx context.Context, set string) error {
	deadline := time.Now().Add(patience)
	for {
		err := f.sets.destroy(set)
		if !errors.Is(err, errInUse) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// removeLocked removes rules first, then the sets that they referred to.
func (f *Firewall) removeLocked(ctx context.Context) error {
	f.memory.forget()
	f.memory.keepTimers(nil, 0)
	before, err := f.saveBoth(ctx)
	if err != nil {
		return err
	}
	for _, v6 := range families() {
		if before[of(v6)].any(f.name) {
			if err := f.restore(ctx, v6, before[of(v6)].removal(f.name)); err != nil {
				return err
			}
		}
	}
	if err := f.unmarkLocked(ctx, before); err != nil {
		return err
	}
	return f.destroyWhereLocked(ctx, func(string) bool { return true })
}

func removalRank(suffix string) int {
	_, list, ok := parseDoor(suffix)
	switch {
	case ok && list:
		return 0
	case suffix == lockSet:
		return 2
	}
	return 1
}

func compareDoors(a, b door) int {
	if a.Protocol != b.Protocol {
		return int(a.Protocol) - int(b.Protocol)
	}
	return int(a.Number) - int(b.Number)
}

// sortedDoors are the keys of doors in a fixed order.
func sortedDoors(doors map[door]bool) []door {
	return slices.SortedFunc(maps.Keys(doors), compareDoors)
}

package iptables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// maxDoors bounds the ports that have pinholes: each has five sets, of which the
// kernel takes 65,534, and four rules.
const maxDoors = 1024

// batch is what one Apply does, by set.
type batch struct {
	open, revoke map[string][]element
	doors        map[door]bool // of what is opened
}

func (f *Firewall) makeBatch(change firewall.Change) batch {
	ttl := make(map[firewall.Pinhole]time.Duration, len(change.Revoke)+len(change.Open))
	for _, p := range change.Revoke {
		ttl[p.Opening()] = 0
	}
	for _, p := range change.Open {
		ttl[p.Opening()] = p.TTL
	}
	b := batch{make(map[string][]element), make(map[string][]element), make(map[door]bool)}
	for p, left := range ttl {
		set := f.setOf(p)
		e := element{address: p.Source}
		if p.SourcePort != 0 {
			e.protocol, e.port = p.Protocol, p.SourcePort
		}
		if left <= 0 {
			b.revoke[set] = append(b.revoke[set], e)
			continue
		}
		e.timeout = wholeSeconds(left)
		b.open[set] = append(b.open[set], e)
		b.doors[doorOf(p)] = true
	}
	return b
}

// setOf is the name of the set that p belongs in.
func (f *Firewall) setOf(p firewall.Pinhole) string {
	return f.name.set(doorOf(p).sources(p.SourcePort != 0, p.Source.Is6()))
}

// apply looks whether the rules are there: before it opens, so that an error changes
// nothing, but only after it revokes, which waits for nobody who reads rules.
func (f *Firewall) apply(ctx context.Context, b batch) error {
	if len(b.open) == 0 {
		return errors.Join(f.send(b), f.installed(ctx), f.rearm())
	}
	err := f.open(ctx, b)
	if errors.Is(err, errMissing) {
		// A set that was here before is gone: others, of this name too, may have
		// removed everything and installed it again.
		f.memory.forget()
		err = f.open(ctx, b)
	}
	if errors.Is(err, errMissing) {
		return fmt.Errorf("%w: %w", firewall.ErrNotInstalled, err)
	}
	return errors.Join(err, f.rearm())
}

func (f *Firewall) open(ctx context.Context, b batch) error {
	if err := f.installed(ctx); err != nil {
		return err
	}
	if err := f.makeDoors(ctx, b.doors); err != nil {
		return err
	}
	return f.send(b)
}

// send opens first: a pinhole that is replaced is at no moment missing.
func (f *Firewall) send(b batch) error {
	f.members.Lock()
	defer f.members.Unlock()
	if err := f.room(b); err != nil {
		return err
	}
	for set, elements := range b.open {
		if err := f.sets.add(set, elements...); err != nil {
			return errors.Join(err, f.shut(b))
		}
	}
	for set, elements := range b.revoke {
		// What is not open at a door that never was needs no revoking.
		if err := f.sets.remove(set, elements...); ignore(err, errMissing) != nil {
			return errors.Join(err, f.shut(b))
		}
	}
	return nil
}

// room returns ErrFull before anything is changed when not all of a change
// would find room. One element alone the kernel refuses without a trace.
func (f *Firewall) room(b batch) error {
	total := 0
	for _, elements := range b.open {
		total += len(elements)
	}
	if total < 2 {
		return nil
	}
	for set, elements := range b.open {
		h, err := f.sets.header(set)
		if err != nil {
			return err
		}
		if uint64(h.elements)+uint64(len(elements)) > uint64(h.capacity) {
			return fmt.Errorf("set %s: %w: it has %d of %d", set, ErrFull, h.elements, h.capacity)
		}
	}
	return nil
}

// shut closes what a change that failed was to open.
func (f *Firewall) shut(b batch) error {
	var all error
	for set, elements := range b.open {
		bare := make([]element, len(elements))
		for i, e := range elements {
			e.timeout = 0
			bare[i] = e
		}
		all = errors.Join(all, ignore(f.sets.remove(set, bare...), errMissing))
	}
	return all
}

// makeDoors makes those of the doors that are not there yet.
func (f *Firewall) makeDoors(ctx context.Context, wanted map[door]bool) error {
	if f.memory.recall().has(wanted) {
		return nil
	}
	return f.changeRules(ctx, func() error { return f.addDoorsLocked(ctx, wanted) })
}

func (f *Firewall) addDoorsLocked(ctx context.Context, wanted map[door]bool) error {
	there, err := f.doors()
	if err != nil {
		return err
	}
	var doors []door
	for _, d := range sortedDoors(wanted) {
		if !there[d] {
			doors = append(doors, d)
		}
	}
	if n := len(there) + len(doors); n > maxDoors {
		return fmt.Errorf("%w: to %d different ports, the limit is %d", firewall.ErrTooMany, n, maxDoors)
	}
	for _, d := range doors {
		if err := f.prepareDoorLocked(d); err != nil {
			return errors.Join(err, f.destroyDoorsLocked(doors))
		}
	}
	if err := f.hangDoorsLocked(ctx, doors); err != nil {
		return errors.Join(err, f.destroyDoorsLocked(doors))
	}
	return f.noteLocked()
}

// hangDoorsLocked adds the rules of doors whose sets are there. Packets are led to
// them last.
func (f *Firewall) hangDoorsLocked(ctx context.Context, doors []door) error {
	if len(doors) == 0 {
		return nil
	}
	for _, v6 := range families() {
		w := writer{name: f.name, v6: v6}
		if err := f.restore(ctx, v6, w.textOfDoors(doors)); err != nil {
			return err
		}
	}
	for _, d := range doors {
		if err := f.sets.add(f.name.set(doorsSet(d.Protocol)), element{port: d.Number}); err != nil {
			return err
		}
	}
	return nil
}

// prepareDoorLocked makes the sets of a door. The list comes last: it says that
// the door is there.
func (f *Firewall) prepareDoorLocked(d door) error {
	list := f.name.set(d.set())
	var members []element
	for _, v6 := range families() {
		for _, exact := range []bool{true, false} {
			kind := addressSet(v6)
			if exact {
				kind = addressPortSet(v6)
			}
			set := f.name.set(d.sources(exact, v6))
			if err := f.sets.create(set, kind, f.capacity, true); err != nil {
				return err
			}
			members = append(members, element{set: set})
		}
	}
	if err := f.sets.create(list, listSet(), 0, false); err != nil {
		return err
	}
	return f.sets.add(list, members...)
}

// destroyDoorsLocked destroys the sets of doors that came to nothing. Where rules
// were made already that refer to them they stay, until the next Install or a
// second attempt.
func (f *Firewall) destroyDoorsLocked(doors []door) error {
	var all error
	for _, d := range doors {
		err := f.sets.destroy(f.name.set(d.set()))
		if errors.Is(err, errInUse) {
			continue
		}
		all = errors.Join(all, err)
		for _, v6 := range families() {
			for _, exact := range []bool{true, false} {
				all = errors.Join(all, f.sets.destroy(f.name.set(d.sources(exact, v6))))
			}
		}
	}
	return all
}

func (f *Firewall) list(ctx context.Context) ([]firewall.Pinhole, error) {
	before := f.memory.recall()
	check := f.installed
	if f.now()-before.read >= readEvery {
		check = f.complete
	}
	if err := check(ctx); err != nil {
		return nil, err
	}
	if err := f.rearm(); err != nil {
		return nil, err
	}
	doors, err := f.doors()
	if err != nil {
		return nil, err
	}
	if now := (seen{doors: doors}); !now.has(before.doors) { // somebody has emptied our sets
		f.memory.forget()
		return nil, firewall.ErrNotInstalled
	}
	var pinholes []firewall.Pinhole
	for _, d := range sortedDoors(doors) {
		for _, v6 := range families() {
			for _, exact := range []bool{true, false} {
				elements, err := f.lists.elements(f.name.set(d.sources(exact, v6)))
				if errors.Is(err, errMissing) {
					return nil, fmt.Errorf("%w: %w", firewall.ErrNotInstalled, err)
				}
				if err != nil {
					return nil, err
				}
				pinholes = appendPinholes(pinholes, d, exact, elements)
			}
		}
	}
	return pinholes, nil
}

// appendPinholes leaves out elements of other protocols, which nobody but a
// stranger to this package can have made, and which open nothing.
func appendPinholes(to []firewall.Pinhole, d door, exact bool, elements []element) []firewall.Pinhole {
	for _, e := range elements {
		p := firewall.Pinhole{Protocol: d.Protocol, Source: e.address, Port: d.Number, TTL: e.timeout}
		if e.timeout == 0 {
			p.TTL = firewall.Forever
		}
		if exact {
			if p.SourcePort = e.port; e.protocol != d.Protocol {
				continue
			}
		}
		to = append(to, p)
	}
	return to
}

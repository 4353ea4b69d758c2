package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// stamp tells whether our rules are as they were: it is asked for in microseconds, after
// each change, where iptables-save takes milliseconds.
type stamp struct {
	valid      bool
	generation uint32 // of nftables' rules, all of them
	uses       string // of our chains in nftables: their rules, and the jumps to them
	references uint32 // of iptables-legacy's rules to the set that never matches
}

// same reports whether our rules are as they were; others' may have changed.
func (s stamp) same(before stamp) bool {
	s.generation = before.generation
	return s.valid && s == before
}

// stampAfter reads the stamp, of which little is asked as long as nobody has changed any
// rule since before. It returns ErrNotInstalled when our sets or chains are not there.
func (f *Firewall) stampAfter(before stamp) (stamp, error) {
	s := stamp{valid: true}
	never, err := f.sets.header(f.name.set(neverSet))
	if err == nil && f.variant == NFT {
		if s.generation, err = f.sets.generation(); err != nil {
			return stamp{}, err
		}
		if s.uses = before.uses; s == before {
			return s, nil
		}
		s.uses, err = f.sets.uses(f.census)
	}
	if errors.Is(err, errMissing) {
		return stamp{}, firewall.ErrNotInstalled
	}
	if err != nil {
		return stamp{}, err
	}
	if f.variant == Legacy {
		s.references = never.references
	}
	return s, nil
}

// Messages of nf_tables and their attributes (include/uapi/linux/netfilter/nf_tables.h).
const (
	nftGetGeneration = 16
	attrGenerationID = 1
	nftGetTable      = 1
	nftDeleteTable   = 2
	nftGetChain      = 4
	nftDeleteChain   = 5
	attrTableName    = 1
	attrChainTable   = 1
	attrChainName    = 3
	attrChainUse     = 6
)

// generation counts the changes of all nftables rules in the namespace.
func (s *sets) generation() (uint32, error) {
	answers, err := s.execute(unix.NFNL_SUBSYS_NFTABLES, nftGetGeneration, 0, unix.AF_UNSPEC)
	if err != nil {
		return 0, fmt.Errorf("generation of nftables: %w", err)
	}
	var id uint32
	err = eachAttribute(answers, func(kind uint16, value []byte) error {
		if kind == attrGenerationID && len(value) == 4 {
			id = binary.BigEndian.Uint32(value)
		}
		return nil
	})
	return id, err
}

// there reports whether nftables has a table, or a chain in it.
func (s *sets) there(family byte, command int, attributes ...*nl.RtAttr) (bool, error) {
	_, err := s.execute(unix.NFNL_SUBSYS_NFTABLES, command, 0, family, attributes...)
	if errors.Is(err, errMissing) {
		return false, nil
	}
	return err == nil, err
}

// installed returns nil when our rules are there, or ErrNotInstalled.
func (f *Firewall) installed(ctx context.Context) error {
	seen := f.memory.recall()
	now, err := f.stampAfter(seen.stamp)
	if err != nil {
		f.memory.forget()
		return err
	}
	if !now.same(seen.stamp) {
		return f.complete(ctx)
	}
	if now != seen.stamp {
		next := seen
		next.stamp = now
		f.memory.learn(seen, next)
	}
	return nil
}

// complete reads all of our rules. It holds up nobody who changes something.
func (f *Firewall) complete(ctx context.Context) error {
	f.checking.Lock()
	defer f.checking.Unlock()
	seen := f.memory.recall()
	next, err := f.read(ctx, seen.stamp)
	if err != nil {
		f.memory.forget()
		return err
	}
	f.memory.learn(seen, next)
	return nil
}

// read returns ErrNotInstalled when not all rules are there. The stamp is older than what
// is read, so that no change in between goes unnoticed.
func (f *Firewall) read(ctx context.Context, before stamp) (next seen, err error) {
	if next.stamp, err = f.stampAfter(before); err != nil {
		return next, err
	}
	rules, err := f.saveBoth(ctx)
	if err != nil {
		return next, err
	}
	if !rules[0].complete(f.name) || !rules[1].complete(f.name) {
		return next, firewall.ErrNotInstalled
	}
	next.read = f.now()
	next.doors, err = f.doors()
	return next, err
}

// noteLocked remembers the rules as they are after a change of our own.
func (f *Firewall) noteLocked() (err error) {
	before := f.memory.recall()
	next := seen{read: f.now()}
	if next.doors, err = f.doors(); err != nil {
		return err
	}
	if next.stamp, err = f.stampAfter(stamp{}); err != nil {
		return err
	}
	f.memory.learn(before, next)
	return nil
}

// dropped reads all rules, of which each has its counter.
func (f *Firewall) dropped(ctx context.Context) (firewall.Dropped, error) {
	var d firewall.Dropped
	all, err := f.saveBoth(ctx)
	if err != nil {
		return d, err
	}
	counts := map[string]*uint64{droppedInput: &d.Input, droppedDoor: &d.Door,
		droppedForward: &d.Forward, droppedOutput: &d.Output}
	for _, rules := range all {
		if !rules.complete(f.name) {
			return firewall.Dropped{}, firewall.ErrNotInstalled
		}
		for _, c := range rules[mangle].ours(f.name) {
			for i, r := range rules[mangle].rules[c] {
				for why, to := range counts {
					if strings.HasSuffix(r, drop(why)) {
						*to += rules[mangle].packets[c][i]
					}
				}
			}
		}
	}
	return d, nil
}

// explainRule tells what go-iptables says of a lack of rights.
func explainRule(err error) error {
	var failed *goiptables.Error
	if errors.As(err, &failed) {
		return explainProgram("iptables", failed.Error(), err)
	}
	return err
}

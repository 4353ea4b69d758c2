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

// stamp changes whenever our rules may have: it is asked for in microseconds,
// before each change, where iptables-save takes milliseconds.
type stamp struct {
	valid      bool
	generation uint32 // of nftables' rules, all of them
	references uint32 // of iptables-legacy's rules to the set that never matches
}

// stampLocked returns ErrNotInstalled when our sets are not there.
func (f *Firewall) stampLocked() (stamp, error) {
	s := stamp{valid: true}
	never, err := f.sets.header(f.name.set(neverSet))
	if errors.Is(err, errMissing) {
		return stamp{}, firewall.ErrNotInstalled
	}
	if err != nil {
		return stamp{}, err
	}
	if f.variant == NFT {
		s.generation, err = f.sets.generation()
		return s, err
	}
	s.references = never.references
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

// installedLocked returns nil when our rules are there, or ErrNotInstalled.
func (f *Firewall) installedLocked(ctx context.Context) error {
	now, err := f.stampLocked()
	if err != nil {
		f.stamp = stamp{}
		return err
	}
	if now == f.stamp {
		return nil
	}
	f.stamp = stamp{}
	for _, v6 := range families() {
		rules, err := f.save(ctx, v6)
		if err != nil {
			return err
		}
		if !rules.complete(f.name) {
			return firewall.ErrNotInstalled
		}
	}
	if f.doors, err = f.doorsLocked(); err != nil {
		return err
	}
	f.stamp = now
	return nil
}

// noteLocked remembers the rules as they are after a change of our own.
func (f *Firewall) noteLocked() (err error) {
	if f.doors, err = f.doorsLocked(); err != nil {
		return err
	}
	f.stamp, err = f.stampLocked()
	return err
}

func (f *Firewall) droppedLocked(ctx context.Context) (firewall.Dropped, error) {
	var d firewall.Dropped
	if err := f.usableLocked(ctx); err != nil {
		return d, err
	}
	if err := f.installedLocked(ctx); err != nil {
		return d, err
	}
	counts := map[string]*uint64{droppedInput: &d.Input, droppedDoor: &d.Door,
		droppedForward: &d.Forward, droppedOutput: &d.Output}
	for _, v6 := range families() {
		rules, err := f.save(ctx, v6)
		if err != nil {
			return firewall.Dropped{}, err
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

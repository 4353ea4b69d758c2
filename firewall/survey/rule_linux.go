package survey

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftRule is a rule in nftables' own expressions.
type nftRule struct {
	exprs []expr.Any
	sets  func(name string) *set
}

// set is a set or map and its elements.
type set struct {
	keySize  int
	interval bool
	elements []nftables.SetElement
	err      error // why there are no elements
}

// judge implements [rule]: it runs the expressions as the kernel would.
func (r nftRule) judge(p packet) []branch {
	var regs registers
	regs.forget(firstWide, len(regs))
	level := Always
	for _, e := range r.exprs {
		if end := r.verdict(e, p, &regs, level); end != nil {
			return end
		}
		if level = min(level, r.match(e, p, &regs)); level == Never {
			return nil
		}
	}
	return nil
}

// verdict returns where the expression sends the packet, or nil.
func (r nftRule) verdict(e expr.Any, p packet, regs *registers, level Level) []branch {
	one := func(a act) []branch { return []branch{{level: level, act: a}} }
	switch e := e.(type) {
	case *expr.Verdict:
		return []branch{verdictBranch(e, level)}
	case *expr.Reject:
		return one(reject)
	case *expr.NAT:
		if e.Type == expr.NATTypeDestNAT {
			return one(elsewhere)
		}
		return one(accept)
	case *expr.Redir:
		return one(elsewhere)
	case *expr.Masq, *expr.Queue:
		return one(accept)
	case *expr.Target:
		return targetBranch(e.Name, level)
	case *expr.Lookup:
		if e.IsDestRegSet && e.DestRegister == 0 {
			return r.verdictMap(e, regs, level)
		}
	}
	return nil
}

func verdictBranch(v *expr.Verdict, level Level) branch {
	acts := map[expr.VerdictKind]act{
		expr.VerdictAccept: accept, expr.VerdictDrop: drop, expr.VerdictReturn: leave,
		expr.VerdictJump: jump, expr.VerdictGoto: goTo, expr.VerdictQueue: accept,
		expr.VerdictStolen: drop,
	}
	return branch{level: level, act: acts[v.Kind], chain: v.Chain}
}

// targetBranch is what iptables' extensions do that end a rule; nil: go on.
func targetBranch(name string, level Level) []branch {
	acts := map[string]act{
		"REJECT": reject, "DROP": drop, "TARPIT": drop, "DNAT": elsewhere, "REDIRECT": elsewhere,
		"ACCEPT": accept, "MASQUERADE": accept, "SNAT": accept, "NFQUEUE": accept, "RETURN": leave,
	}
	a, ends := acts[name]
	if !ends {
		return nil
	}
	return []branch{{level: level, act: a}}
}

// match tells for which packets the rule goes on behind e.
func (r nftRule) match(e expr.Any, p packet, regs *registers) Level {
	switch e := e.(type) {
	case *expr.Meta:
		if !e.SourceRegister {
			regs.put(e.Register, p.meta(e.Key))
		}
	case *expr.Ct:
		if !e.SourceRegister {
			regs.put(e.Register, p.ct(e.Key))
		}
	case *expr.Payload:
		if e.OperationType == expr.PayloadLoad {
			regs.put(e.DestRegister, p.payload(e.Base, int(e.Offset), int(e.Len)))
		}
	case *expr.Fib:
		regs.put(e.Register, p.fib(e))
	case *expr.Exthdr:
		regs.put(e.DestRegister, unknown(Rarely, 16)) // options and extension headers
	case *expr.Hash:
		regs.put(e.DestRegister, unknown(Maybe, 4))
	case *expr.Numgen:
		regs.put(e.Register, unknown(Maybe, 4))
	case *expr.Immediate:
		regs.put(e.Register, known(e.Data...))
	case *expr.Bitwise:
		regs.put(e.DestRegister, bitwise(regs.at(e.SourceRegister, int(e.Len)), e.Mask, e.Xor))
	case *expr.Cmp:
		if e.Op == expr.CmpOpEq || e.Op == expr.CmpOpNeq { // not for the two ends of a range
			defer regs.forget(e.Register, len(e.Data))
		}
		return compare(e.Op, regs.at(e.Register, len(e.Data)), e.Data)
	case *expr.Range:
		level := within(regs.at(e.Register, len(e.FromData)), e.FromData, e.ToData)
		if e.Op == expr.CmpOpNeq {
			return not(level)
		}
		return level
	case *expr.Lookup:
		return r.lookup(e, regs)
	case *expr.Match:
		return p.extension(e)
	case *expr.Limit, *expr.Quota, *expr.Connlimit:
		return Rarely
	}
	return Always
}

// lookup is a match against a set, or the loading of a map's value.
func (r nftRule) lookup(e *expr.Lookup, regs *registers) Level {
	level := Never
	for _, f := range r.find(e, regs) {
		level = max(level, f.level)
	}
	if e.IsDestRegSet {
		regs.put(e.DestRegister, unknown(Maybe, 16))
	}
	if e.Invert {
		return not(level)
	}
	return level
}

// verdictMap is a vmap.
func (r nftRule) verdictMap(e *expr.Lookup, regs *registers, level Level) []branch {
	var branches []branch
	for _, f := range r.find(e, regs) {
		if v := elementVerdict(f.element); v != nil {
			branches = append(branches, verdictBranch(v, min(level, f.level)))
		}
	}
	return branches
}

// elementVerdict reads the verdict of a map's element (nested attributes
// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN), which the library leaves as bytes.
func elementVerdict(e nftables.SetElement) *expr.Verdict {
	ad, err := netlink.NewAttributeDecoder(e.Val)
	if err != nil {
		return nil
	}
	ad.ByteOrder = binary.BigEndian
	v := &expr.Verdict{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = ad.String()
		}
	}
	if ad.Err() != nil {
		return nil
	}
	return v
}

// found is an element that the key may be.
type found struct {
	element nftables.SetElement
	level   Level
}

// find returns the elements that the key in the registers is, or may be.
func (r nftRule) find(e *expr.Lookup, regs *registers) []found {
	s := r.sets(e.SetName)
	if s == nil {
		return []found{{level: Maybe}}
	}
	key := regs.at(e.SourceRegister, s.keySize)
	if key == nil {
		return []found{{level: Maybe}}
	}
	if depends, blind := blind(key); blind && !e.IsDestRegSet {
		return []found{{level: depends}}
	}
	if s.err != nil {
		return []found{{level: Maybe}}
	}
	var all []found
	for _, f := range spans(s.elements, s.interval) {
		level := f.compare(key)
		if level > Never {
			all = append(all, found{f.element, level})
		}
	}
	return all
}

// blind reports that no byte of a key is known, and what depends on it.
func blind(key []cell) (Level, bool) {
	_, level := plain(key)
	return level, !slices.ContainsFunc(key, func(c cell) bool { return c.known })
}

// span is an element of a set, from one key to another, both included.
type span struct {
	from, to []byte
	element  nftables.SetElement
}

// compare goes field by field of 4 bytes, as concatenations of ranges do, unless both
// ends are the same.
func (s span) compare(key []cell) Level {
	if bytes.Equal(s.from, s.to) {
		return equal(key, s.from)
	}
	if len(s.from) != len(key) || len(s.to) != len(key) {
		return Maybe
	}
	if s.element.KeyEnd == nil {
		return within(key, s.from, s.to)
	}
	level := Always
	for i := 0; i < len(key); i += 4 {
		end := min(i+4, len(key))
		level = min(level, within(key[i:end], s.from[i:end], s.to[i:end]))
	}
	return level
}

// spans puts beginnings and ends of intervals together.
func spans(elements []nftables.SetElement, interval bool) []span {
	var all []span
	if !interval {
		for _, e := range elements {
			all = append(all, span{e.Key, e.Key, e})
		}
		return all
	}
	if slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return e.KeyEnd != nil }) {
		for _, e := range elements {
			s := span{e.Key, e.Key, e}
			if e.KeyEnd != nil {
				s.to = e.KeyEnd
			}
			all = append(all, s)
		}
		return all
	}
	elements = slices.Clone(elements)
	slices.SortStableFunc(elements, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // an interval ends where the next one begins
			return -1
		}
		return 1
	})
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		to := bytes.Repeat([]byte{0xff}, len(e.Key))
		if i+1 < len(elements) {
			to = before(elements[i+1].Key)
		}
		all = append(all, span{e.Key, to, e})
	}
	return all
}

// before returns the number below key.
func before(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return key
}

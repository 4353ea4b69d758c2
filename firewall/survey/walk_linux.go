package survey

import (
	"fmt"
	"net/netip"
	"slices"
)

// table is one table of one family with all its chains.
type table struct {
	variant Variant
	family  string // inet, ip or ip6
	name    string
	owner   Owner
	chains  map[string]*chain
}

// covers reports whether the table sees packets of that version of IP.
func (t *table) covers(family int) bool {
	return t.family == "inet" || t.family == "ip" && family == 4 || t.family == "ip6" && family == 6
}

// chain is one chain; hook is empty but for base chains.
type chain struct {
	name     string
	hook     string
	kind     string // filter, nat or route; of base chains
	priority int
	drops    bool
	rules    []rule
}

// rule is one line of a chain, in whatever form it is kept.
type rule interface {
	// judge says where a packet goes, and for which packets that is so.
	judge(p packet) []branch
}

// opaque stands for the rules of a chain that cannot be read.
type opaque struct{ outcome branch }

// judge implements [rule].
func (o opaque) judge(packet) []branch { return []branch{o.outcome} }

// branch is one possible outcome of a rule.
type branch struct {
	level Level
	act   act
	chain string // of jump and goTo
}

type act uint8

const (
	goOn act = iota
	accept
	drop
	reject
	elsewhere
	leave // back to the calling chain
	jump
	goTo
)

// does is the act's name in an [Obstacle].
func (a act) does() string {
	return map[act]string{drop: "drops", reject: "rejects", elsewhere: "sends elsewhere"}[a]
}

// packet is what is known of the imagined packet.
type packet struct {
	family   int    // 4 or 6
	protocol string // tcp or udp
	port     uint16 // the local one; 0: any
	own      netip.Addr
	device   string
	index    int
	answer   bool // the way back, on output
}

// Bounds of a walk: netfilter itself refuses deeper jumps; the steps bound the time
// that a machine with a million rules can cost.
const (
	maxDepth = 16
	maxSteps = 1 << 20
)

// walk follows a packet through one base chain.
type walk struct {
	packet packet
	table  *table
	ours   func(chain string) bool
	steps  int

	worst Level // at which the packet is stopped
	does  act
	where string

	chainName string // in which it is stopped
}

// stop notes that the packet is stopped in a chain; the surest cause is kept.
func (w *walk) stop(level Level, a act, chain, where string) {
	if level > w.worst {
		w.worst, w.does, w.chainName, w.where = level, a, chain, where+" of "+chain
	}
}

// base walks a base chain.
func (w *walk) base(c *chain) {
	if left := w.chain(c, Always, 0); c.drops {
		w.stop(left, drop, c.name, "policy")
	}
}

// chain walks c with packets that get there at level, and returns at what level they
// come out at its end.
func (w *walk) chain(c *chain, level Level, depth int) (left Level) {
	for i, r := range c.rules {
		w.steps++
		if level == Never || w.steps > maxSteps {
			break
		}
		here := level
		for _, b := range r.judge(w.packet) {
			if b.act == jump && w.ours(b.chain) {
				b.level = Always // what our jumps ask for always holds: see package iptables
			}
			at := min(level, b.level)
			if at == Never {
				continue
			}
			rest := Never // of the packets that the rule is about
			switch b.act {
			case goOn:
				continue
			case accept:
			case drop, reject, elsewhere:
				w.stop(at, b.act, c.name, fmt.Sprintf("rule %d", i+1))
			case leave:
				left = max(left, at)
			case jump:
				rest = w.call(b.chain, at, depth)
			case goTo:
				left = max(left, w.call(b.chain, at, depth))
			}
			if b.level == Always {
				here = rest
			}
		}
		level = here
	}
	return max(left, level)
}

// call walks another chain of the same table. Postern's own accepts what the
// question is about.
func (w *walk) call(name string, level Level, depth int) Level {
	c := w.table.chains[name]
	switch {
	case w.ours(name):
		return Never
	case c == nil || depth >= maxDepth:
		return level
	}
	return w.chain(c, level, depth+1)
}

// sorted returns the table's chains, base chains by priority first.
func (t *table) sorted() []*chain {
	var all []*chain
	for _, c := range t.chains {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *chain) int {
		if a.priority != b.priority {
			return a.priority - b.priority
		}
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return all
}

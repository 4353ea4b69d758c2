package nft

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/postern-sdp/postern/firewall"
)

// A timer is a set with an element for each family of packets; it is running as
// long as the kernel holds them.
type timer struct {
	name string
	id   uint32        // within a transaction
	left time.Duration // none when not positive
}

const trialTimer = "trial"

// keepTimers is the beginning of the names of the timers of keep rules.
const keepTimers = "keep"

func keepTimer(i int) string { return fmt.Sprintf("%s%d", keepTimers, i) }

// timers lists those of rules. The trial's set is always there.
func timers(rules firewall.Rules) []timer {
	list := []timer{{trialTimer, doors + 4, rules.Trial}}
	for i, k := range rules.Keep {
		if k.TTL > 0 {
			list = append(list, timer{keepTimer(i), doors + 5 + uint32(i), k.TTL})
		}
	}
	return list
}

func (t timer) set(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, Name: t.name, ID: t.id, KeyType: nftables.TypeNFProto,
		HasTimeout: true}
}

// queueTimersLocked sets the timers of rules and deletes those of other rules.
func (f *Firewall) queueTimersLocked(rules firewall.Rules, present map[string]*nftables.Set) error {
	wanted := make(map[string]bool)
	for _, t := range timers(rules) {
		wanted[t.name] = true
		set := t.set(f.table)
		if err := f.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("timer %s: %w", t.name, err)
		}
		if t.left <= 0 {
			continue // a packet under the rules of before may still ask for what it holds
		}
		f.conn.FlushSet(set)
		var elements []nftables.SetElement
		for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
			// To the kernel a timeout of 0 ms means for ever.
			elements = append(elements, nftables.SetElement{Key: []byte{family},
				Timeout: max(t.left, time.Millisecond)})
		}
		if err := f.conn.SetAddElements(set, elements); err != nil {
			return fmt.Errorf("timer %s: %w", t.name, err)
		}
	}
	for name := range present {
		if strings.HasPrefix(name, keepTimers) && !wanted[name] {
			f.conn.DelSet(timer{name: name}.set(f.table))
		}
	}
	return nil
}

// running matches while a timer runs.
func running(name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: name}}
}

// trialOver lets everything through when a trial was asked for and its time is up.
// It asks twice: a packet that looks while the timer is set anew may miss both
// the old element and the new one, but only once.
func trialOver(rules firewall.Rules) []rule {
	if rules.Trial <= 0 {
		return nil
	}
	var over []expr.Any
	for range 2 {
		over = append(over, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: trialTimer, Invert: true})
	}
	return []rule{accept("the trial is over", over)}
}

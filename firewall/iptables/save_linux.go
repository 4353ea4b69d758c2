package iptables

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// saved is what iptables-save tells about one family's tables of ours.
type saved map[string]*savedTable

type savedTable struct {
	policies map[string]string   // of built-in chains
	own      []string            // chains that are not built in
	rules    map[string][]string // by chain, without "-A CHAIN"
	packets  map[string][]uint64 // by chain, for each rule
}

// save reads both tables of a family.
func (f *Firewall) save(ctx context.Context, v6 bool) (saved, error) {
	all := make(saved)
	for _, table := range tables() {
		text, err := f.namespace.run(ctx, "", f.programs.save[of(v6)], "-c", "-t", table)
		if err != nil {
			return nil, err
		}
		if all[table], err = parseSave(text); err != nil {
			return nil, fmt.Errorf("table %s: %w", table, err)
		}
	}
	return all, nil
}

func parseSave(text string) (*savedTable, error) {
	t := &savedTable{policies: make(map[string]string), rules: make(map[string][]string),
		packets: make(map[string][]uint64)}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ":"):
			fields := strings.Fields(line[1:])
			if len(fields) < 2 {
				return nil, fmt.Errorf("iptables-save wrote %q", line)
			}
			if t.policies[fields[0]] = fields[1]; fields[1] == "-" {
				delete(t.policies, fields[0])
				t.own = append(t.own, fields[0])
			}
		case strings.HasPrefix(line, "["):
			counters, rule, ok := strings.Cut(line, "] -A ")
			number, _, _ := strings.Cut(counters[1:], ":")
			packets, err := strconv.ParseUint(number, 10, 64)
			if !ok || err != nil {
				return nil, fmt.Errorf("iptables-save wrote %q", line)
			}
			chain, rule, _ := strings.Cut(rule, " ")
			t.rules[chain] = append(t.rules[chain], rule)
			t.packets[chain] = append(t.packets[chain], packets)
		}
	}
	return t, nil
}

// jumps returns the numbers, from 1, of the rules in a built-in chain that lead
// to ours. Of a rule that also asks for something else nothing is said.
func (t *savedTable) jumps(n name, hook string) []int {
	want := n.jump(hook)
	var found []int
	for i, r := range t.rules[hook] {
		if slices.Equal(strings.Fields(r), want) {
			found = append(found, i+1)
		}
	}
	return found
}

// inFront reports whether exactly one jump is there and nothing comes before it
// but the jumps of other instances.
func (t *savedTable) inFront(n name, hook string) bool {
	jumps := t.jumps(n, hook)
	if len(jumps) != 1 {
		return false
	}
	for _, r := range t.rules[hook][:jumps[0]-1] {
		fields := strings.Fields(r)
		set := fields[min(4, len(fields)-1)]
		other, ok := strings.CutSuffix(set, name("").set(neverSet))
		if !ok || !slices.Equal(fields, name(other).jump(hook)) {
			return false
		}
	}
	return true
}

// ours lists the chains of an instance.
func (t *savedTable) ours(n name) []string {
	var list []string
	for _, c := range t.own {
		if strings.HasPrefix(c, n.chain("")) {
			list = append(list, c)
		}
	}
	return list
}

// complete reports whether all jumps and chains are there, none of the chains empty.
func (s saved) complete(n name) bool {
	for _, table := range tables() {
		for _, hook := range hooks() {
			if len(s[table].jumps(n, hook)) == 0 {
				return false
			}
		}
		for _, c := range (writer{name: n}).chains(table) {
			if len(s[table].rules[n.chain(c.name)]) == 0 {
				return false
			}
		}
	}
	return true
}

// any reports whether something of ours is there.
func (s saved) any(n name) bool {
	for _, table := range tables() {
		if len(s[table].ours(n)) > 0 {
			return true
		}
	}
	return false
}

// text is what iptables-restore reads to have our chains as they were saved.
func (s saved) text(n name) string {
	var b strings.Builder
	for _, table := range tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, c := range s[table].ours(n) {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c)
		}
		for _, c := range s[table].ours(n) {
			for _, r := range s[table].rules[c] {
				fmt.Fprintf(&b, "-A %s %s\n", c, r)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// removal is what iptables-restore reads to have nothing of ours any more.
func (s saved) removal(n name) string {
	var b strings.Builder
	for _, table := range tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, hook := range hooks() {
			for range s[table].jumps(n, hook) {
				fmt.Fprintf(&b, "-D %s %s\n", hook, strings.Join(n.jump(hook), " "))
			}
		}
		for _, c := range s[table].ours(n) {
			fmt.Fprintf(&b, "-F %s\n", c)
		}
		for _, c := range s[table].ours(n) {
			fmt.Fprintf(&b, "-X %s\n", c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

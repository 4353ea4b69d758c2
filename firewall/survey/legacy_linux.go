package survey

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// parseSave reads what iptables-save prints. Lines that it does not understand
// become rules that may match.
func parseSave(text string, family string, v Variant) []*table {
	var all []*table
	var t *table
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			t = &table{variant: v, family: family, name: line[1:], chains: map[string]*chain{}}
			all = append(all, t)
		case t == nil:
		case strings.HasPrefix(line, ":"):
			t.addChain(line[1:])
		default:
			t.addRule(line)
		}
	}
	return all
}

// addChain reads "INPUT DROP [0:0]" or "ufw-user-input - [0:0]".
func (t *table) addChain(line string) {
	words := strings.Fields(line)
	if len(words) < 2 {
		return
	}
	c := &chain{name: words[0], drops: words[1] == "DROP"}
	if words[1] != "-" {
		c.hook = strings.ToLower(c.name)
		c.kind = "filter"
		if t.name == "nat" {
			c.kind = "nat"
		}
		c.priority = map[string]int{"raw": -300, "mangle": -150, "nat": -100, "security": 50}[t.name]
	}
	t.chains[c.name] = c
}

// addRule reads "-A INPUT -p tcp -j DROP", with counters in front or without.
func (t *table) addRule(line string) {
	if strings.HasPrefix(line, "[") {
		_, line, _ = strings.Cut(line, "] ")
	}
	words := splitQuoted(line)
	if len(words) < 2 || words[0] != "-A" {
		return
	}
	if c := t.chains[words[1]]; c != nil {
		c.rules = append(c.rules, textRule(words[2:]))
	}
}

// splitQuoted splits at spaces outside of double quotes.
func splitQuoted(line string) []string {
	var words []string
	var word strings.Builder
	quoted, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word.Len() > 0 {
				words = append(words, word.String())
			}
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words
}

// textRule is a rule as iptables-save prints it, behind the chain's name.
type textRule []string

// judge implements [rule].
func (r textRule) judge(p packet) []branch {
	level := Always
	for _, o := range r.options() {
		switch o.name {
		case "-j":
			return textTarget(o.value, level, jump)
		case "-g":
			return textTarget(o.value, level, goTo)
		}
		if level = min(level, o.match(p)); level == Never {
			return nil
		}
	}
	return nil
}

func textTarget(name string, level Level, call act) []branch {
	if end := targetBranch(name, level); end != nil {
		return end
	}
	if slices.Contains([]string{"LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TRACE", "NOTRACK", "SET",
		"TCPMSS", "CHECKSUM", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "AUDIT", "TEE"}, name) {
		return nil
	}
	return []branch{{level: level, act: call, chain: name}}
}

// option is one condition of a rule.
type option struct {
	name  string
	value string
	not   bool
	extra []string // values behind the first
}

// options groups the words: "! -i docker0" is one option.
func (r textRule) options() []option {
	var all []option
	not := false
	for _, w := range r {
		switch {
		case w == "!":
			not = true
		case strings.HasPrefix(w, "-") && len(w) > 1:
			all = append(all, option{name: w, not: not})
			not = false
		case len(all) > 0:
			last := &all[len(all)-1]
			if last.value == "" {
				last.value = w
			} else {
				last.extra = append(last.extra, w)
			}
		}
	}
	return all
}

// match tells for which packets the condition holds.
func (o option) match(p packet) Level {
	level := o.plain(p)
	if o.not {
		return not(level)
	}
	return level
}

func (o option) plain(p packet) Level {
	switch o.name {
	case "-p":
		return yes(o.value == p.protocol || o.value == "all")
	case "-i":
		return yes(!p.answer && deviceIs(p.device, o.value))
	case "-o":
		return yes(p.answer && deviceIs(p.device, o.value))
	case "-s", "-d":
		prefix, err := parsePrefix(o.value)
		if err != nil {
			return Maybe
		}
		return p.address((o.name == "-d") != p.answer, prefix)
	case "-m":
		return module(o.value)
	case "--dport", "--dports":
		return p.portList(!p.answer, o.value)
	case "--sport", "--sports":
		return p.portList(p.answer, o.value)
	case "--ctstate", "--state":
		state := "NEW"
		if p.answer {
			state = "ESTABLISHED"
		}
		return yes(slices.Contains(strings.Split(o.value, ","), state))
	case "--dst-type", "--src-type":
		local := (o.name == "--dst-type") != p.answer
		return yes(local && o.value == "LOCAL" || !local && o.value == "UNICAST")
	case "--tcp-flags", "--syn":
		return yes(!p.answer && (o.name == "--syn" || slices.Equal(o.extra, []string{"SYN"})))
	case "--ctdir":
		return yes((o.value == "REPLY") == p.answer)
	}
	if strings.HasPrefix(o.name, "--ct") {
		return Maybe
	}
	return Always // an extension's own option: its -m has told what depends on it
}

// module tells what depends on an extension whose options are not followed.
func module(name string) Level {
	followed := []string{"tcp", "udp", "comment", "conntrack", "state", "multiport", "addrtype"}
	switch {
	case slices.Contains(followed, name):
		return Always
	case slices.Contains(rareExtensions(), name):
		return Rarely
	}
	return Maybe
}

func yes(is bool) Level {
	if is {
		return Always
	}
	return Never
}

// deviceIs compares with a name that may end in "+".
func deviceIs(device, pattern string) bool {
	if prefix, some := strings.CutSuffix(pattern, "+"); some {
		return strings.HasPrefix(device, prefix)
	}
	return device == pattern
}

func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// portList reads "22", "1000:2000" and "80,443,8000:8100".
func (p packet) portList(local bool, list string) Level {
	level := Never
	for part := range strings.SplitSeq(list, ",") {
		from, to, ok := portRange(part)
		if !ok {
			return Maybe
		}
		level = max(level, p.ports(local, from, to))
	}
	return level
}

func portRange(text string) (from, to uint16, ok bool) {
	low, high, isRange := strings.Cut(text, ":")
	if !isRange {
		high = low
	}
	if low == "" {
		low = "0"
	}
	if high == "" {
		high = "65535"
	}
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	return uint16(a), uint16(b), err1 == nil && err2 == nil
}

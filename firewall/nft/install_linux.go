package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/postern-sdp/postern/firewall"
)

// priority puts the chains after connection tracking (-200) and before every
// usual filter (0).
const priority = -100

// ICMP types (RFC 792) and ICMPv6 types (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
const (
	icmpUnreachable, icmpTimeExceeded, icmpBadHeader = 3, 11, 12

	icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6BadHeader = 1, 2, 3, 4

	mldQuery, mldReport, mldDone, mld2Report = 130, 131, 132, 143

	routerSolicitation, routerAdvertisement       = 133, 134
	neighbourSolicitation, neighbourAdvertisement = 135, 136
)

// Hop limit of neighbour discovery: a router would have lowered it.
const ndHopLimit = 255

// Ports of DHCP (RFC 2131) and DHCPv6 (RFC 8415).
const (
	dhcpServer, dhcpClient   = 67, 68
	dhcp6Server, dhcp6Client = 547, 546
)

// rule is one line of a chain.
type rule struct {
	comment string
	match   []expr.Any
	verdict []expr.Any
}

func accept(comment string, match ...[]expr.Any) rule {
	return rule{comment, slices.Concat(match...), verdict(expr.VerdictAccept)}
}

func drop(comment, counter string, match ...[]expr.Any) rule {
	return rule{comment, slices.Concat(match...), append(count(counter), verdict(expr.VerdictDrop)...)}
}

func jump(chain, comment string, match ...[]expr.Any) rule {
	return rule{comment, slices.Concat(match...), toChain(expr.VerdictJump, chain)}
}

// queueTableLocked queues the whole table. Sets that hold what is open, or was,
// stay as they are; timers are set anew, the rules are thrown away and written
// again. Without tracked, those that need connection tracking are left out.
func (f *Firewall) queueTableLocked(rules firewall.Rules, tracked bool) error {
	f.conn.AddTable(f.table)
	f.conn.FlushTable(f.table)
	present := f.presentLocked()
	if err := f.queueSetsLocked(present); err != nil {
		return err
	}
	if err := f.queueBootLocked(present); err != nil {
		return err
	}
	if err := f.queueTimersLocked(rules, present); err != nil {
		return err
	}
	f.queueCountersLocked()
	f.queueChainsLocked(rules, tracked)
	return nil
}

// presentLocked returns the sets of the table by their names. What cannot be
// listed is taken as not there: if it is in the way, the transaction fails.
func (f *Firewall) presentLocked() map[string]*nftables.Set {
	if err := f.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil
	}
	sets, err := f.conn.GetSets(f.table)
	if err != nil {
		f.drainLocked()
		return nil
	}
	present := make(map[string]*nftables.Set, len(sets))
	for _, s := range sets {
		present[s.Name] = s
	}
	return present
}

// queueSetsLocked adds the sets that are not there. The program nft does not mark
// a set whose key has parts, this library does, and the kernel takes them for
// different sets: one that nft restored is added as nft would.
func (f *Firewall) queueSetsLocked(present map[string]*nftables.Set) error {
	var sets []*nftables.Set
	for _, l := range layouts() {
		set, err := l.set(f.table)
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}
	for _, v6 := range []bool{false, true} {
		set, err := makeServerSet(f.table, v6)
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}
	for _, set := range sets {
		if there := present[set.Name]; there != nil {
			set.Concatenation = there.Concatenation
		}
		if err := f.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	return nil
}

// chain is one of the table, with a hook or to be jumped to.
type chain struct {
	name  string
	hook  *nftables.ChainHook
	rules []rule
}

// queueChainsLocked makes all chains before the rules, which jump to them.
func (f *Firewall) queueChainsLocked(rules firewall.Rules, tracked bool) {
	chains := []chain{
		{"input", nftables.ChainHookInput, inputRules(rules, tracked)},
		{"output", nftables.ChainHookOutput, outputRules(rules, tracked)},
		{"forward", nftables.ChainHookForward, forwardRules(rules, tracked)},
		{"inside", nil, insideRules(rules, tracked)},
		{"replies", nil, replyRules(tracked)},
		{"arriving", nil, publishedRules(arriving(), rules, tracked)},
		{"leaving", nil, publishedRules(leaving(), rules, tracked)},
		{"admit", nil, admitRules(tracked)},
		{"errors", nil, icmpErrors()},
	}
	made := make([]*nftables.Chain, len(chains))
	for i, c := range chains {
		made[i] = &nftables.Chain{Name: c.name, Table: f.table}
		if c.hook != nil {
			policy := nftables.ChainPolicyDrop
			made[i].Type, made[i].Hooknum = nftables.ChainTypeFilter, c.hook
			made[i].Priority, made[i].Policy = nftables.ChainPriorityRef(priority), &policy
		}
		f.conn.AddChain(made[i])
	}
	for i, c := range chains {
		for _, r := range c.rules {
			f.conn.AddRule(&nftables.Rule{
				Table: f.table, Chain: made[i], Exprs: append(r.match, r.verdict...),
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
			})
		}
	}
}

func inputRules(rules firewall.Rules, tracked bool) []rule {
	list := append(trialOver(rules), accept("loopback", device(input(), "lo")))
	list = append(list, standing(input(), rules)...)
	list = append(list, pinholes(input())...)
	list = append(list, drop("no pinhole", droppedDoor, layouts()[doors].in(input())))
	if tracked {
		list = append(list,
			accept("replies to own flows", direction(reply), state(expr.CtStateBitESTABLISHED)),
			jump("errors", "errors of known flows", state(expr.CtStateBitRELATED)))
	}
	list = append(list, linkLocal()...)
	list = append(list, dhcp()...)
	return append(list, drop("the rest", droppedInput))
}

func outputRules(rules firewall.Rules, tracked bool) []rule {
	list := append(trialOver(rules), accept("loopback", device(output(), "lo")))
	list = append(list, standing(output(), rules)...)
	list = append(list, pinholes(output())...)
	list = append(list, drop("no pinhole", droppedDoor, layouts()[doors].in(output())))
	if tracked {
		list = append(list, ownFlows()...)
		list = append(list, errorsOfForwarded(rules)...)
	}
	own := []byte{routerSolicitation, neighbourSolicitation, neighbourAdvertisement,
		mldReport, mldDone, mld2Report}
	for _, t := range own {
		list = append(list, accept("ND and MLD", family(true), protocol(syscall.IPPROTO_ICMPV6),
			transport(icmpType, t)))
	}
	return append(list, drop("the rest", droppedOutput))
}

func ownFlows() []rule {
	return []rule{
		accept("own flows", direction(original), state(expr.CtStateBitESTABLISHED)),
		accept("own flows begin with a SYN", direction(original), state(expr.CtStateBitNEW),
			protocol(syscall.IPPROTO_TCP),
			transportMasked(tcpFlags, flagFIN|flagSYN|flagRST|flagACK, flagSYN)),
		drop("not the beginning of a flow", droppedOutput, protocol(syscall.IPPROTO_TCP)),
		accept("own flows", direction(original), state(expr.CtStateBitNEW)),
	}
}

// standing are the rules that need no pinhole.
func standing(s side, rules firewall.Rules) []rule {
	var list []rule
	admit := func(comment string, match ...[]expr.Any) {
		list = append(list, rule{comment, slices.Concat(match...), s.admit()})
	}
	for i, k := range rules.Keep {
		var from []expr.Any
		if k.TTL > 0 {
			from = running(keepTimer(i))
		}
		if k.Interface != "" {
			from = append(from, device(s, k.Interface)...)
		}
		if k.Source.IsValid() {
			from = append(from, peerWithin(s, k.Source)...)
		}
		if len(k.Ports) == 0 {
			admit("keep", from)
		}
		for _, p := range k.Ports {
			admit("keep", from, localPort(s, p))
		}
	}
	for _, p := range rules.OpenPorts {
		admit("open port", localPort(s, p))
	}
	return list
}

// pinholes are the look-ups. Each sees the sets as they are in its own moment: a
// change that replaces a wide pinhole by an exact one may take place between two
// of them. So the exact set, which is asked first, is asked again at the end, or
// a packet would be lost now and then that neither finds.
func pinholes(s side) []rule {
	all := layouts()
	return slices.Concat(lookUp(s, all[exact4]), lookUp(s, all[wide4]), lookUp(s, all[exact4]),
		lookUp(s, all[exact6]), lookUp(s, all[wide6]), lookUp(s, all[exact6]))
}

// lookUp is written once for each protocol where the local port comes from
// conntrack, or nft could not read it.
func lookUp(s side, l layout) []rule {
	if !s.published {
		return []rule{accept("pinholes", l.in(s))}
	}
	var list []rule
	for _, p := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
		list = append(list, rule{"pinholes", slices.Concat(protocol(byte(p)), l.in(s)), s.admit()})
	}
	return list
}

// admit is the verdict for a packet that may pass.
func (s side) admit() []expr.Any {
	if s == arriving() {
		return toChain(expr.VerdictGoto, "admit")
	}
	return verdict(expr.VerdictAccept)
}

// icmpErrors accepts, of what conntrack relates to a flow that is known, path-MTU
// messages above all. Redirects are not among them.
func icmpErrors() []rule {
	var list []rule
	for _, t := range []byte{icmpUnreachable, icmpTimeExceeded, icmpBadHeader} {
		list = append(list, accept("errors of known flows", family(false),
			protocol(syscall.IPPROTO_ICMP), transport(icmpType, t)))
	}
	for _, t := range []byte{icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6BadHeader} {
		list = append(list, accept("errors of known flows", family(true),
			protocol(syscall.IPPROTO_ICMPV6), transport(icmpType, t)))
	}
	return list
}

// linkLocal lets in neighbour discovery (RFC 4861) and, so that switches go on
// delivering it, multicast listener queries (RFC 3810). Neither can come from
// beyond the link.
func linkLocal() []rule {
	var list []rule
	for _, t := range []byte{neighbourSolicitation, neighbourAdvertisement, routerAdvertisement} {
		list = append(list, accept("neighbour discovery", family(true), protocol(syscall.IPPROTO_ICMPV6),
			network(ip6HopLimit, ndHopLimit), transport(icmpType, t)))
	}
	return append(list, accept("MLD", peerWithin(input(), linkLocalPrefix()),
		protocol(syscall.IPPROTO_ICMPV6), transport(icmpType, mldQuery)))
}

// dhcp lets in what servers send to a client that has no address yet (RFC 2131, RFC 8415).
func dhcp() []rule {
	udp := protocol(syscall.IPPROTO_UDP)
	return []rule{
		accept("DHCP", family(false), udp, port(0, dhcpServer), port(2, dhcpClient)),
		accept("DHCP", peerWithin(input(), linkLocalPrefix()), udp,
			port(0, dhcp6Server), port(2, dhcp6Client)),
	}
}

// linkLocalPrefix is fe80::/10 (RFC 4291, 2.4).
func linkLocalPrefix() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/firewall"
)

// The tables that have chains of ours. The first one decides, the second one
// keeps others from dropping what the first let in.
const (
	mangle = "mangle"
	filter = "filter"
)

func tables() []string { return []string{mangle, filter} }

// Our chains without their instance's name. Those that jumps of the built-in
// chains lead to bear their names.
const (
	inputChain, outputChain, forwardChain = "INPUT", "OUTPUT", "FORWARD"

	// doorIn and doorOut have the rules of each door for packets that come to the
	// host and leave it, arriving and leaving those of flows that DNAT sends on.
	doorIn, doorOut   = "DOOR-IN", "DOOR-OUT"
	arriving, leaving = "ARRIVING", "LEAVING"

	admitChain = "ADMIT"
	// insideChain is for what comes in on an inside interface, repliesChain for the
	// answers to it, sentOnChain for what else is forwarded.
	insideChain, repliesChain, sentOnChain = "INSIDE", "REPLIES", "SENT-ON"
)

func hooks() []string { return []string{inputChain, outputChain, forwardChain} }

// chain is one of ours, with its rules as iptables reads them.
type chain struct {
	name  string
	rules []string
}

// Comments by which the counters are found again.
const (
	droppedInput   = "no pinhole, no keep rule, no flow of its own"
	droppedDoor    = "a door, and no pinhole"
	droppedForward = "not to be forwarded"
	droppedOutput  = "belongs to no flow of its own"
)

// writer writes the rules of one family.
type writer struct {
	name
	rules   firewall.Rules
	doors   []door
	timers  int // generation
	long    []longTimer
	v6      bool
	tracked bool // connection tracking may be used
	// pass ends our chains in favour of a packet, and admit does of one to a
	// published port.
	pass, admit string
}

// chains lists those of one table. The last rule of each refers to the set that the
// jumps refer to: the kernel's count of its references tells that all are there.
func (w writer) chains(table string) []chain {
	all := w.rulesOf(table)
	for _, c := range all {
		last := &c.rules[len(c.rules)-1]
		*last = join(w.notNever(), *last)
	}
	return all
}

// notNever matches always.
func (n name) notNever() string { return "-m set ! --match-set " + n.set(neverSet) + " src" }

// in returns w for the rules of a table. From the mangle table packets return to the
// built-in chain: rules of others that come behind shall see them still.
func (w writer) in(table string) writer {
	w.pass, w.admit = "-j RETURN", w.goTo(admitChain)
	if table == filter {
		w.pass, w.admit = "-j ACCEPT", "-j ACCEPT"
	}
	return w
}

func (w writer) rulesOf(table string) []chain {
	w = w.in(table)
	if table == filter {
		return []chain{
			{inputChain, w.filterHook(in())},
			{outputChain, w.filterHook(out())},
			{forwardChain, w.filterForward()},
			{doorIn, append(w.doorRules(in()), "-j RETURN")},
			{doorOut, append(w.doorRules(out()), "-j RETURN")},
			{arriving, append(w.published(sentIn(), w.admit), "-j RETURN")},
			{leaving, append(w.published(sentOut(), w.pass), "-j RETURN")},
		}
	}
	return []chain{
		{inputChain, w.input()},
		{outputChain, w.output()},
		{forwardChain, w.forward()},
		{doorIn, append(w.doorRules(in()), drop(droppedDoor))},
		{doorOut, append(w.doorRules(out()), drop(droppedDoor))},
		{arriving, append(w.published(sentIn(), w.admit), drop(droppedForward))},
		{leaving, append(w.published(sentOut(), w.pass), drop(droppedForward))},
		{admitChain, w.admission()},
		{insideChain, w.inside()},
		{repliesChain, w.replies()},
		{sentOnChain, w.sentOn()},
	}
}

// side says which way packets are looked at: the peer is the source of what comes
// in and the destination of what leaves.
type side struct {
	incoming  bool
	published bool // the local port is the one that was asked for, before DNAT
}

func in() side      { return side{incoming: true} }
func out() side     { return side{} }
func sentIn() side  { return side{incoming: true, published: true} }
func sentOut() side { return side{published: true} }

// choose returns a for what comes in and b for what leaves.
func (s side) choose(a, b string) string {
	if s.incoming {
		return a
	}
	return b
}

func drop(why string) string { return fmt.Sprintf(`-m comment --comment "%s" -j DROP`, why) }

func (w writer) goTo(chain string) string { return "-g " + w.chain(chain) }

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), " ")
}

func state(s string) string { return "-m conntrack --ctstate " + s }

func direction(d string) string { return "-m conntrack --ctdir " + d }

// inSet matches when the peer, and its port, are in a set.
func (w writer) inSet(set string, flags string) string {
	return fmt.Sprintf("-m set --match-set %s %s", w.set(set), flags)
}

// device matches the interface on the peer's side.
func device(s side, name string) string {
	if prefix, all := strings.CutSuffix(name, "*"); all {
		name = prefix + "+"
	}
	return s.choose("-i ", "-o ") + name
}

// localPort matches the port that the peer asked for.
func localPort(s side, p firewall.Port) string {
	if s.published {
		return fmt.Sprintf("-p %s -m conntrack --ctorigdstport %d", p.Protocol, p.Number)
	}
	return fmt.Sprintf("-p %s %s %d", p.Protocol, s.choose("--dport", "--sport"), p.Number)
}

// trialOver lets everything through when a trial was asked for and its time is up.
func (w writer) trialOver(s side) []string {
	if w.rules.Trial <= 0 {
		return nil
	}
	set := w.set(timer{w.timers, trialTimer}.set(w.v6))
	return []string{fmt.Sprintf("-m set ! --match-set %s %s -j RETURN", set, s.choose("src", "dst"))}
}

// standing are the rules that need no pinhole.
func (w writer) standing(s side, verdict string) []string {
	var list []string
	for i, k := range w.rules.Keep {
		from, ours := w.keepSource(s, i, k)
		if !ours {
			continue
		}
		if len(k.Ports) == 0 {
			list = append(list, join(from, verdict))
		}
		for _, p := range k.Ports {
			list = append(list, join(from, localPort(s, p), verdict))
		}
	}
	for _, p := range w.rules.OpenPorts {
		list = append(list, join(localPort(s, p), verdict))
	}
	return list
}

// keepSource is where packets of a keep rule come from; it reports false when the
// rule is about the other family.
func (w writer) keepSource(s side, i int, k firewall.Keep) (match string, ours bool) {
	var parts []string
	if k.TTL > 0 {
		parts = append(parts, w.inSet(timer{w.timers, keepTimer(i)}.set(w.v6), s.choose("src", "dst")))
	}
	if k.Interface != "" {
		parts = append(parts, device(s, k.Interface))
	}
	if k.Source.IsValid() {
		if k.Source.Addr().Is6() != w.v6 {
			return "", false
		}
		parts = append(parts, s.choose("-s ", "-d ")+k.Source.Masked().String())
	}
	return join(parts...), true
}

// toDoors leads packets to and from a door to the rules of the doors.
func (w writer) toDoors(s side, how string) []string {
	var list []string
	for _, p := range protocols() {
		list = append(list, fmt.Sprintf("-p %s %s %s %s", p, w.inSet(doorsSet(p), s.choose("dst", "src")),
			how, w.chain(s.choose(doorIn, doorOut))))
	}
	return list
}

func (w writer) doorRules(s side) []string {
	var list []string
	for _, d := range w.doors {
		list = append(list, w.lookUp(d, s, w.pass)...)
	}
	return list
}

// lookUp is the look-up at one door, twice: each sees the door's sets one after the
// other, and a change that replaces a wide pinhole by an exact one, or an exact one
// by a wide one, may take place between them. A packet would be lost now and then
// that neither set has at the moment it is asked.
func (w writer) lookUp(d door, s side, verdict string) []string {
	rule := w.doorRule(d, s, verdict)
	return []string{rule, rule}
}

// doorRule looks the peer up in the sets of one door.
func (w writer) doorRule(d door, s side, verdict string) string {
	return join(localPort(s, firewall.Port(d)), w.inSet(d.set(), s.choose("src,src", "dst,dst")), verdict)
}

// published look flows up that DNAT sent on by what was asked of the host.
func (w writer) published(s side, verdict string) []string {
	if !w.tracked {
		return nil
	}
	list := w.standing(s, verdict)
	for _, d := range w.doors {
		list = append(list, w.lookUp(d, s, verdict)...)
	}
	return list
}

func (w writer) input() []string {
	list := append(w.trialOver(in()), "-i lo "+w.pass)
	list = append(list, w.standing(in(), w.pass)...)
	list = append(list, w.toDoors(in(), "-g")...)
	if w.tracked {
		list = append(list, join(direction("REPLY"), "--ctstate ESTABLISHED", w.pass))
		list = append(list, w.errors("")...)
	}
	list = append(list, w.linkLocal()...)
	return append(list, drop(droppedInput))
}

func (w writer) output() []string {
	list := append(w.trialOver(out()), "-o lo "+w.pass)
	list = append(list, w.standing(out(), w.pass)...)
	list = append(list, w.toDoors(out(), "-g")...)
	if w.tracked {
		list = append(list,
			join(direction("ORIGINAL"), "--ctstate ESTABLISHED", w.pass),
			join("-p tcp", onlySYN, direction("ORIGINAL"), "--ctstate NEW", w.pass),
			join("-p tcp", drop(droppedOutput)),
			join(direction("ORIGINAL"), "--ctstate NEW", w.pass))
		list = append(list, w.errorsOfForwarded()...)
	}
	if w.v6 {
		for _, t := range sentByHost() {
			list = append(list, fmt.Sprintf("-p icmpv6 --icmpv6-type %d %s", t, w.pass))
		}
	}
	return append(list, drop(droppedOutput))
}

const onlySYN = "--tcp-flags FIN,SYN,RST,ACK SYN"

// forward judges what the host sends on: the flows of the machines behind it, and
// those that DNAT sends on from one of its own ports.
func (w writer) forward() []string {
	list := w.trialOver(in())
	for _, name := range w.rules.Inside {
		list = append(list, join(device(in(), name), w.goTo(insideChain)))
	}
	return append(list, w.goTo(sentOnChain))
}

// inside judges what comes in on an inside interface.
func (w writer) inside() []string {
	var list []string
	for _, name := range w.rules.Inside {
		list = append(list, join(device(out(), name), w.pass))
	}
	if w.tracked {
		list = append(list,
			join(direction("REPLY"), w.goTo(sentOnChain)),
			join("-p udp", w.inSet(serversSet(w.v6), "src,src"), drop(droppedForward)),
			join(state("ESTABLISHED"), w.pass),
			join("-p tcp", onlySYN, state("NEW"), w.pass),
			join("-p tcp", drop(droppedForward)),
			join(state("NEW"), w.pass))
		list = append(list, w.errors("")...)
	}
	return append(list, drop(droppedForward))
}

// sentOn judges what did not begin inside.
func (w writer) sentOn() []string {
	var list []string
	if w.tracked {
		for _, name := range w.rules.Inside {
			list = append(list, join(device(out(), name), direction("REPLY"), w.goTo(repliesChain)))
		}
		list = append(list, w.errors(state("DNAT"))...)
		list = append(list,
			join(state("DNAT"), "--ctdir ORIGINAL", w.goTo(arriving)),
			join(state("DNAT"), "--ctdir REPLY", w.goTo(leaving)))
	}
	return append(list, drop(droppedForward))
}

func (w writer) replies() []string {
	var list []string
	if w.tracked {
		list = append(w.errors(""), join(state("ESTABLISHED"), w.pass))
	}
	return append(list, drop(droppedForward))
}

// admission lets a packet through to a published port and, of datagrams, notes the
// server. When there is no room to note it the packet does not pass.
func (w writer) admission() []string {
	noted := w.inSet(serversSet(w.v6), "dst,dst")
	return []string{
		join("! -p udp", w.pass),
		join(noted, w.pass),
		fmt.Sprintf("-j SET --add-set %s dst,dst --exist", w.set(serversSet(w.v6))),
		join(noted, w.pass),
		drop(droppedForward),
	}
}

// ICMP types (RFC 792) and ICMPv6 types (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
const (
	icmpUnreachable, icmpTimeExceeded, icmpBadHeader = 3, 11, 12

	icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6BadHeader = 1, 2, 3, 4

	mldQuery, mldReport, mldDone, mld2Report = 130, 131, 132, 143

	routerSolicitation, routerAdvertisement       = 133, 134
	neighbourSolicitation, neighbourAdvertisement = 135, 136
)

// sentByHost are neighbour discovery and multicast listener reports.
func sentByHost() []int {
	return []int{routerSolicitation, neighbourSolicitation, neighbourAdvertisement,
		mldReport, mldDone, mld2Report}
}

// errors passes, of what conntrack relates to a flow that is known, path-MTU
// messages above all. Redirects are not among them.
func (w writer) errors(match string) []string {
	types, option := []int{icmpUnreachable, icmpTimeExceeded, icmpBadHeader}, "-p icmp --icmp-type"
	if w.v6 {
		types = []int{icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6BadHeader}
		option = "-p icmpv6 --icmpv6-type"
	}
	var list []string
	for _, t := range types {
		list = append(list, join(option, fmt.Sprint(t), match, state("RELATED"), w.pass))
	}
	return list
}

// errorsOfForwarded lets the host itself tell the ends of flows from inside that
// a packet was too large or found no way. To whoever began a flow from elsewhere
// it says nothing.
func (w writer) errorsOfForwarded() []string {
	if len(w.rules.Inside) == 0 {
		return nil
	}
	list := w.errors(direction("ORIGINAL"))
	for _, name := range w.rules.Inside {
		list = append(list, w.errors(join(device(out(), name), direction("REPLY")))...)
	}
	return list
}

// linkLocal lets in what the link itself needs, from no further away: neighbour
// discovery (RFC 4861), multicast listener queries (RFC 3810) so that switches go
// on delivering it, and what DHCP servers send to a client that has no address
// yet (RFC 2131, RFC 8415).
func (w writer) linkLocal() []string {
	if !w.v6 {
		return []string{"-p udp --sport 67 --dport 68 " + w.pass}
	}
	var list []string
	for _, t := range []int{neighbourSolicitation, neighbourAdvertisement, routerAdvertisement} {
		// A router would have lowered the hop limit.
		list = append(list, fmt.Sprintf("-p icmpv6 --icmpv6-type %d -m hl --hl-eq 255 %s", t, w.pass))
	}
	near := "-s " + netip.MustParsePrefix("fe80::/10").String()
	return append(list,
		fmt.Sprintf("%s -p icmpv6 --icmpv6-type %d %s", near, mldQuery, w.pass),
		near+" -p udp --sport 547 --dport 546 "+w.pass)
}

// filterHook accepts what the mangle table let in for a reason of ours. Replies
// to the host's own flows are left to whoever comes next.
func (w writer) filterHook(s side) []string {
	list := append(w.trialOver(s), w.standing(s, w.pass)...)
	return append(append(list, w.toDoors(s, "-j")...), "-j RETURN")
}

func (w writer) filterForward() []string {
	list := w.trialOver(in())
	if w.tracked {
		list = append(list,
			join(state("DNAT"), "--ctdir ORIGINAL -j", w.chain(arriving)),
			join(state("DNAT"), "--ctdir REPLY -j", w.chain(leaving)))
	}
	return append(list, "-j RETURN")
}

// text is what iptables-restore reads to have exactly these chains.
func (w writer) text() string {
	var b strings.Builder
	for _, table := range tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		all := w.chains(table)
		for _, c := range all {
			fmt.Fprintf(&b, ":%s - [0:0]\n", w.chain(c.name))
		}
		for _, c := range all {
			for _, r := range c.rules {
				fmt.Fprintf(&b, "-A %s %s\n", w.chain(c.name), r)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// textOfDoors is what iptables-restore reads to have the rules of more doors in
// the chains that are there.
func (w writer) textOfDoors(doors []door) string {
	var b strings.Builder
	for _, table := range tables() {
		fmt.Fprintf(&b, "*%s\n", table)
		w := w.in(table)
		for _, d := range doors {
			for _, r := range []struct {
				chain, verdict string
				side           side
			}{{doorIn, w.pass, in()}, {doorOut, w.pass, out()},
				{arriving, w.admit, sentIn()}, {leaving, w.pass, sentOut()}} {
				for _, rule := range w.lookUp(d, r.side, r.verdict) {
					fmt.Fprintf(&b, "-I %s 1 %s\n", w.chain(r.chain), rule)
				}
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// jump is the rule in the built-in chain of a hook that leads to ours. The set
// is empty, so that it always matches.
func (n name) jump(hook string) []string {
	return append(strings.Fields(n.notNever()), "-j", n.chain(hook))
}

package nft

import (
	"net/netip"
	"slices"
	"syscall"

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

func drop(comment string, match ...[]expr.Any) rule {
	return rule{comment, slices.Concat(match...), verdict(expr.VerdictDrop)}
}

// queueTableLocked queues the whole table. Sets that are there stay as they are;
// the rules are thrown away and written again. Without tracked, those that need
// connection tracking are left out.
func (f *Firewall) queueTableLocked(rules firewall.Rules, tracked bool) error {
	f.conn.AddTable(f.table)
	f.conn.FlushTable(f.table)
	for _, l := range layouts() {
		set, err := l.set(f.table)
		if err != nil {
			return err
		}
		if err := f.conn.AddSet(set, nil); err != nil {
			return err
		}
	}
	f.queueChainLocked("input", nftables.ChainHookInput, inputRules(rules, tracked))
	f.queueChainLocked("output", nftables.ChainHookOutput, outputRules(rules, tracked))
	return nil
}

func (f *Firewall) queueChainLocked(name string, hook *nftables.ChainHook, rules []rule) {
	policy := nftables.ChainPolicyDrop
	chain := f.conn.AddChain(&nftables.Chain{
		Name: name, Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityRef(priority), Policy: &policy,
	})
	for _, r := range rules {
		f.conn.AddRule(&nftables.Rule{
			Table: f.table, Chain: chain, Exprs: append(r.match, r.verdict...),
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
		})
	}
}

func inputRules(rules firewall.Rules, tracked bool) []rule {
	list := []rule{accept("loopback", loopback(input))}
	list = append(list, standing(input, rules)...)
	list = append(list, pinholes(input)...)
	list = append(list, drop("no pinhole", layouts()[doors].in(input)))
	if tracked {
		list = append(list, accept("replies to own flows",
			direction(reply), state(expr.CtStateBitESTABLISHED)))
		list = append(list, icmpErrors()...)
	}
	list = append(list, linkLocal()...)
	list = append(list, dhcp()...)
	return append(list, drop("the rest", []expr.Any{&expr.Counter{}}))
}

func outputRules(rules firewall.Rules, tracked bool) []rule {
	list := []rule{accept("loopback", loopback(output))}
	list = append(list, standing(output, rules)...)
	list = append(list, pinholes(output)...)
	list = append(list, drop("no pinhole", layouts()[doors].in(output)))
	if tracked {
		list = append(list, ownFlows()...)
	}
	own := []byte{routerSolicitation, neighbourSolicitation, neighbourAdvertisement,
		mldReport, mldDone, mld2Report}
	for _, t := range own {
		list = append(list, accept("ND and MLD", family(true), protocol(syscall.IPPROTO_ICMPV6),
			transport(icmpType, t)))
	}
	return append(list, drop("the rest", []expr.Any{&expr.Counter{}}))
}

func ownFlows() []rule {
	return []rule{
		accept("own flows", direction(original), state(expr.CtStateBitESTABLISHED)),
		accept("own flows begin with a SYN", direction(original), state(expr.CtStateBitNEW),
			protocol(syscall.IPPROTO_TCP),
			transportMasked(tcpFlags, flagFIN|flagSYN|flagRST|flagACK, flagSYN)),
		drop("not the beginning of a flow", protocol(syscall.IPPROTO_TCP)),
		accept("own flows", direction(original), state(expr.CtStateBitNEW)),
	}
}

// standing are the rules that need no pinhole.
func standing(s side, rules firewall.Rules) []rule {
	var list []rule
	for _, k := range rules.Keep {
		from := peerWithin(s, k.Source)
		if len(k.Ports) == 0 {
			list = append(list, accept("keep", from))
		}
		for _, p := range k.Ports {
			list = append(list, accept("keep", from, localPort(s, p)))
		}
	}
	for _, p := range rules.OpenPorts {
		list = append(list, accept("open port", localPort(s, p)))
	}
	return list
}

func pinholes(s side) []rule {
	var list []rule
	for _, l := range layouts()[:doors] {
		list = append(list, accept("pinholes", l.in(s)))
	}
	return list
}

// icmpErrors lets in what conntrack relates to a flow that is known: path-MTU
// messages above all. Redirects are not among them.
func icmpErrors() []rule {
	var list []rule
	related := state(expr.CtStateBitRELATED)
	for _, t := range []byte{icmpUnreachable, icmpTimeExceeded, icmpBadHeader} {
		list = append(list, accept("errors of known flows", related, family(false),
			protocol(syscall.IPPROTO_ICMP), transport(icmpType, t)))
	}
	for _, t := range []byte{icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6BadHeader} {
		list = append(list, accept("errors of known flows", related, family(true),
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
	return append(list, accept("MLD", peerWithin(input, linkLocalPrefix()),
		protocol(syscall.IPPROTO_ICMPV6), transport(icmpType, mldQuery)))
}

// dhcp lets in what servers send to a client that has no address yet (RFC 2131, RFC 8415).
func dhcp() []rule {
	udp := protocol(syscall.IPPROTO_UDP)
	return []rule{
		accept("DHCP", family(false), udp, port(0, dhcpServer), port(2, dhcpClient)),
		accept("DHCP", peerWithin(input, linkLocalPrefix()), udp,
			port(0, dhcp6Server), port(2, dhcp6Client)),
	}
}

// linkLocalPrefix is fe80::/10 (RFC 4291, 2.4).
func linkLocalPrefix() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

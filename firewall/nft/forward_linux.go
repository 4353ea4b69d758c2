package nft

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/postern-sdp/postern/firewall"
)

// forwardRules judge what the host sends on: the flows of the machines behind
// it, and those that DNAT sends on from one of its own ports.
func forwardRules(rules firewall.Rules, tracked bool) []rule {
	list := trialOver(rules)
	for _, name := range rules.Inside {
		list = append(list, jump("inside", "from inside", device(input(), name)))
	}
	if tracked {
		for _, name := range rules.Inside {
			list = append(list, jump("replies", "replies to flows from inside",
				device(output(), name), direction(reply)))
		}
		list = append(list,
			jump("arriving", "to a published port", sentOn(), direction(original)),
			jump("leaving", "from a published port", sentOn(), direction(reply)),
			jump("errors", "errors of published flows", sentOn(), state(expr.CtStateBitRELATED)))
	}
	return append(list, drop("the rest", droppedForward))
}

// insideRules judge what comes in on an inside interface.
func insideRules(rules firewall.Rules, tracked bool) []rule {
	var list []rule
	for _, name := range rules.Inside {
		list = append(list, accept("between insides", device(output(), name)))
	}
	if !tracked {
		return list
	}
	list = append(list, rule{"not from here", direction(reply), verdict(expr.VerdictReturn)})
	for _, v6 := range []bool{false, true} {
		list = append(list, drop("no pinhole", droppedForward, fromServer(v6)))
	}
	return append(list,
		accept("flows from inside", state(expr.CtStateBitESTABLISHED)),
		accept("flows from inside begin with a SYN", state(expr.CtStateBitNEW),
			protocol(syscall.IPPROTO_TCP),
			transportMasked(tcpFlags, flagFIN|flagSYN|flagRST|flagACK, flagSYN)),
		drop("not the beginning of a flow", droppedForward, protocol(syscall.IPPROTO_TCP)),
		accept("flows from inside", state(expr.CtStateBitNEW)),
		jump("errors", "errors of flows from inside", state(expr.CtStateBitRELATED)))
}

func replyRules(tracked bool) []rule {
	if !tracked {
		return nil
	}
	return []rule{
		accept("replies to flows from inside", state(expr.CtStateBitESTABLISHED)),
		jump("errors", "errors of flows from inside", state(expr.CtStateBitRELATED)),
	}
}

// publishedRules look flows up that DNAT sent on by what was asked of the host.
func publishedRules(s side, rules firewall.Rules, tracked bool) []rule {
	if !tracked {
		return nil
	}
	return append(standing(s, rules), pinholes(s)...)
}

// admitRules accept a packet to a published port and, of datagrams, note the
// server. When there is no room to note it the packet does not pass.
func admitRules(tracked bool) []rule {
	if !tracked {
		return nil
	}
	udp := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syscall.IPPROTO_UDP}}}
	list := []rule{accept("admitted", udp)}
	for _, v6 := range []bool{false, true} {
		list = append(list, accept("admitted", toServer(v6)))
	}
	return list
}

// errorsOfForwarded lets the host itself tell the ends of flows from inside that
// a packet was too large or found no way. To whoever began a flow from elsewhere
// it says nothing.
func errorsOfForwarded(rules firewall.Rules) []rule {
	if len(rules.Inside) == 0 {
		return nil
	}
	related := state(expr.CtStateBitRELATED)
	list := []rule{jump("errors", "errors of forwarded flows", related, direction(original))}
	for _, name := range rules.Inside {
		list = append(list, jump("errors", "errors of forwarded flows",
			device(output(), name), related, direction(reply)))
	}
	return list
}

// The sets of servers remember every machine behind a published port that was
// sent a datagram: address[16 or 4] port[2] 0[2]. When conntrack forgets such a
// flow, a server that goes on sending would look like the one that began; no
// flow from inside may begin at such an address and port.
const maxServers = 65535

func serverSet(v6 bool) string {
	if v6 {
		return "servers6"
	}
	return "servers4"
}

func makeServerSet(table *nftables.Table, v6 bool) (*nftables.Set, error) {
	address := nftables.TypeIPAddr
	if v6 {
		address = nftables.TypeIP6Addr
	}
	key, err := nftables.ConcatSetType(address, nftables.TypeInetService)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", serverSet(v6), err)
	}
	return &nftables.Set{
		Table: table, Name: serverSet(v6), ID: serverSetID(v6), KeyType: key, Concatenation: true,
		KeyByteOrder: binaryutil.BigEndian, Dynamic: true, Size: maxServers,
	}, nil
}

func serverSetID(v6 bool) uint32 {
	if v6 {
		return doors + 3
	}
	return doors + 2
}

// serverKey puts the server's address and port into registers from
// firstRegister on: the destination of what comes in, else the source.
func serverKey(v6 bool, destination bool) []expr.Any {
	s := side{incoming: !destination}
	address := expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader,
		Offset: s.peer(v6), Len: 4}
	next := uint32(firstRegister + 1)
	if v6 {
		address.Len, next = 16, firstRegister+4
	}
	return slices.Concat(family(v6), protocol(syscall.IPPROTO_UDP), []expr.Any{&address,
		&expr.Payload{DestRegister: next, Base: expr.PayloadBaseTransportHeader,
			Offset: s.peerPort(), Len: 2}})
}

func toServer(v6 bool) []expr.Any {
	return append(serverKey(v6, true), &expr.Dynset{SrcRegKey: firstRegister,
		SetName: serverSet(v6), SetID: serverSetID(v6), Operation: dynsetAdd})
}

// dynsetAdd is NFT_DYNSET_OP_ADD.
const dynsetAdd = 0

func fromServer(v6 bool) []expr.Any {
	return append(serverKey(v6, false), &expr.Lookup{SourceRegister: firstRegister,
		SetName: serverSet(v6), SetID: serverSetID(v6)})
}

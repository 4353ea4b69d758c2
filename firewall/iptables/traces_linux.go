package iptables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// iptables-nft makes a table, and the built-in chains in it, when the first rule
// comes. So that Remove can take away what came with ours and nothing else, an
// empty chain that is named after it says so: POSTERN-N-TABLE, POSTERN-N-INPUT.
// The mark is short, so that the longest name fits into 28 characters with it.
const newMark, newTable = "N-", "TABLE"

// markLocked notes what is not there yet. In iptables-legacy the tables come with
// the kernel's modules.
func (f *Firewall) markLocked(ctx context.Context, before [2]saved) error {
	if f.variant != NFT {
		return nil
	}
	for _, v6 := range families() {
		var b strings.Builder
		for _, table := range tables() {
			if len(before[of(v6)][table].ours(f.name)) > 0 {
				continue // noted already
			}
			marks, err := f.missingLocked(v6, table)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "*%s\n", table)
			for _, m := range marks {
				fmt.Fprintf(&b, ":%s - [0:0]\n", f.name.chain(newMark+m))
			}
			b.WriteString("COMMIT\n")
		}
		if b.Len() == 0 {
			continue
		}
		if err := f.restore(ctx, v6, b.String()); err != nil {
			return err
		}
	}
	return nil
}

func (f *Firewall) missingLocked(v6 bool, table string) ([]string, error) {
	there, err := f.sets.there(family(v6), nftGetTable, text(attrTableName, table))
	if err != nil {
		return nil, err
	}
	if !there {
		return append(hooks(), newTable), nil
	}
	var missing []string
	for _, hook := range hooks() {
		there, err := f.sets.there(family(v6), nftGetChain, text(attrChainTable, table),
			text(attrChainName, hook))
		if err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, hook)
		}
	}
	return missing, nil
}

func text(kind int, value string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(value)) }

// unmarkLocked deletes the built-in chains and the tables that came with our rules,
// where nobody has put anything into them since. Before is what was there when our
// rules still were.
func (f *Firewall) unmarkLocked(ctx context.Context, before [2]saved) error {
	if f.variant != NFT {
		return nil
	}
	for _, v6 := range families() {
		var after saved
		for _, table := range tables() {
			marks := marksIn(before[of(v6)][table], f.name)
			if len(marks) == 0 {
				continue
			}
			if after == nil {
				var err error
				if after, err = f.save(ctx, v6); err != nil {
					return err
				}
			}
			if err := f.clearLocked(v6, table, marks, after[table]); err != nil {
				return err
			}
		}
	}
	return nil
}

func marksIn(t *savedTable, n name) []string {
	var marks []string
	for _, c := range t.ours(n) {
		if m, ok := strings.CutPrefix(c, n.chain(newMark)); ok {
			marks = append(marks, m)
		}
	}
	return marks
}

func (f *Firewall) clearLocked(v6 bool, table string, marks []string, t *savedTable) error {
	empty := func(c string) bool { return len(t.rules[c]) == 0 && t.policies[c] == "ACCEPT" }
	all := len(t.own) == 0
	for c := range t.policies {
		all = all && empty(c)
	}
	if all && slices.Contains(marks, newTable) {
		return f.sets.transact(family(v6), nftDeleteTable, text(attrTableName, table))
	}
	for _, c := range marks {
		if c == newTable || !empty(c) {
			continue
		}
		err := f.sets.transact(family(v6), nftDeleteChain, text(attrChainTable, table),
			text(attrChainName, c))
		if err != nil {
			return err
		}
	}
	return nil
}

// transact sends one nf_tables message as a transaction: between two others that
// begin and end it.
func (s *sets) transact(family byte, command int, attributes ...*nl.RtAttr) error {
	frame := func(kind int) []byte {
		m := nl.NewNetlinkRequest(kind, 0)
		m.AddRawData([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
		return m.Serialize()
	}
	m := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|command, unix.NLM_F_ACK)
	m.AddRawData([]byte{family, unix.NFNETLINK_V0, 0, 0})
	for _, a := range attributes {
		m.AddRawData(a.Serialize())
	}
	batch := slices.Concat(frame(unix.NFNL_MSG_BATCH_BEGIN), m.Serialize(), frame(unix.NFNL_MSG_BATCH_END))
	s.socket.Socket.Lock()
	defer s.socket.Socket.Unlock()
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(s.socket.Socket.GetFd(), batch, 0, to); err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	for {
		answers, _, err := s.socket.Socket.Receive()
		if err != nil {
			return fmt.Errorf("nf_tables: %w", err)
		}
		for _, a := range answers {
			if a.Header.Seq != m.Seq || a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 {
				continue
			}
			if errno := -int32(nl.NativeEndian().Uint32(a.Data)); errno != 0 {
				return fmt.Errorf("nf_tables: %w", explain(unix.Errno(errno)))
			}
			return nil
		}
	}
}

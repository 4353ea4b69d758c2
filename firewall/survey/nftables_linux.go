package survey

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// errSkipped stands for elements that were not read because they tell nothing.
var errSkipped = errors.New("the set's elements were not read")

// readNFTables reads every table of the families that see IP packets, but for the
// one that is Postern's own.
func (m *Machine) readNFTables(name string) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("connect to nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }() // only read from
	chains, err := conn.ListChains()
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		return nil // no nftables in this kernel, so no rules in it either
	}
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	dormant, err := dormantTables(conn)
	if err != nil {
		return err
	}
	byTable := map[nftables.Table][]*nftables.Chain{}
	var order []nftables.Table
	for _, c := range chains {
		key := nftables.Table{Name: c.Table.Name, Family: c.Table.Family}
		if byTable[key] == nil {
			order = append(order, key)
		}
		byTable[key] = append(byTable[key], c)
	}
	for _, t := range order {
		family, known := families()[t.Family]
		switch {
		case !known:
			if t.Family == nftables.TableFamilyNetdev {
				m.Unread = append(m.Unread, "table netdev "+t.Name+": it sees packets before all others")
			}
		case t.Family == nftables.TableFamilyINet && t.Name == name:
			m.addOurs(NFTables)
			m.OursDormant = dormant[t]
			for _, c := range byTable[t] {
				m.OursForward = m.OursForward || baseChain(c).hook == "forward"
			}
			if !dormant[t] {
				m.own = append(m.own, m.readTable(conn, t, family, byTable[t], true))
			}
		case dormant[t]:
		default:
			m.addTable(m.readTable(conn, t, family, byTable[t], false))
		}
	}
	return nil
}

// dormantTables are those whose chains are switched off (nft's "flags dormant").
func dormantTables(conn *nftables.Conn) (map[nftables.Table]bool, error) {
	all, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	// The library takes these big-endian flags for the machine's own order.
	const flag = unix.NFT_TABLE_F_DORMANT
	dormant := map[nftables.Table]bool{}
	for _, t := range all {
		dormant[nftables.Table{Name: t.Name, Family: t.Family}] = t.Flags&(flag|bits.ReverseBytes32(flag)) != 0
	}
	return dormant, nil
}

func families() map[nftables.TableFamily]string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	}
}

// readTable reads one table. What cannot be read is told, and the rest goes on.
func (m *Machine) readTable(conn *nftables.Conn, nt nftables.Table, family string,
	chains []*nftables.Chain, own bool) *table {
	t := &table{variant: NFTables, family: family, name: nt.Name, chains: map[string]*chain{}}
	if ofIPTables(nt.Name, chains) {
		t.variant = IPTablesNFT
	}
	unread := func(what string, err error) {
		m.Unread = append(m.Unread, fmt.Sprintf("table %s %s: %s: %v", family, nt.Name, what, err))
	}
	sets, err := readSets(conn, &nt, own)
	if err != nil {
		unread("sets", err)
	}
	for _, c := range chains {
		read := baseChain(c)
		rules, err := conn.GetRules(&nt, c)
		switch {
		case err != nil && own: // nobody shall be told that it guards
			read.rules = []rule{opaque{branch{level: Always, act: accept}}}
		case err != nil:
			unread("chain "+c.Name, err)
			read.rules = []rule{opaque{branch{level: Maybe, act: drop}}}
		}
		for _, r := range rules {
			read.rules = append(read.rules, nftRule{
				exprs: r.Exprs, sets: func(name string) *set { return sets[name] },
			})
		}
		t.chains[c.Name] = read
	}
	return t
}

// ofIPTables reports whether iptables-nft made the table: its names are fixed and
// its base chains' are in capitals.
func ofIPTables(name string, chains []*nftables.Chain) bool {
	if !slices.Contains(iptablesTables(), name) {
		return false
	}
	based := false
	for _, c := range chains {
		if c.Hooknum != nil {
			based = true
			if c.Name != strings.ToUpper(c.Name) {
				return false
			}
		}
	}
	return based
}

func iptablesTables() []string { return []string{"filter", "nat", "mangle", "raw", "security"} }

func baseChain(c *nftables.Chain) *chain {
	read := &chain{name: c.Name, kind: string(c.Type)}
	if c.Hooknum == nil {
		return read
	}
	hooks := []string{"prerouting", "input", "forward", "output", "postrouting"}
	if int(*c.Hooknum) < len(hooks) {
		read.hook = hooks[*c.Hooknum]
	}
	if c.Priority != nil {
		read.priority = int(*c.Priority)
	}
	read.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	return read
}

// readSets reads the table's sets and, but for plain sets of addresses and own sets of
// pinholes, of which there may be a great many, their elements.
func readSets(conn *nftables.Conn, t *nftables.Table, own bool) (map[string]*set, error) {
	all, err := conn.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	sets := map[string]*set{}
	for _, s := range all {
		s.Table = t
		read := &set{keySize: int(s.KeyType.Bytes), interval: s.Interval, err: errSkipped}
		addresses := s.KeyType.Name == nftables.TypeIPAddr.Name || s.KeyType.Name == nftables.TypeIP6Addr.Name
		pinholes := own && s.Concatenation && s.HasTimeout
		if s.IsMap || !addresses && !pinholes {
			read.elements, read.err = conn.GetSetElements(s)
		}
		if len(read.elements) > 0 {
			read.keySize = len(read.elements[0].Key) // the library mistakes it for verdict maps
		}
		sets[s.Name] = read
	}
	return sets, nil
}

package survey

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Look surveys the network namespace of the calling thread. What cannot be read is
// in Unread; an error means that nothing could.
func Look(ctx context.Context, c Config) (*Machine, error) {
	m := &Machine{ourPrefix: strings.ToUpper(c.Name) + "-"}
	if err := m.readNFTables(c.Name); err != nil {
		return nil, fmt.Errorf("survey the packet filters: %w", err)
	}
	m.readLegacy(ctx)
	m.readInterfaces()
	m.readSystem()
	m.findPublished()
	return m, nil
}

func (m *Machine) addOurs(v Variant) {
	if !slices.Contains(m.Ours, v) {
		m.Ours = append(m.Ours, v)
	}
}

// isOurs reports whether a chain of iptables' is Postern's own.
func (m *Machine) isOurs(chain string) bool { return strings.HasPrefix(chain, m.ourPrefix) }

// addTable takes a table that was read into the books.
func (m *Machine) addTable(t *table) {
	var names []string
	mixed := false
	for name, c := range t.chains {
		if m.isOurs(name) && t.variant != NFTables {
			m.addOurs(t.variant)
			mixed = true
			continue
		}
		if len(c.rules) > 0 || c.drops {
			names = append(names, name)
		}
	}
	t.owner = ownerOf(t.name, names)
	m.tables = append(m.tables, t)
	if mixed {
		m.own = append(m.own, t)
	}
	if len(names) > 0 {
		m.Owners = append(m.Owners, ownersIn(t.name, names)...)
		slices.Sort(m.Owners)
		m.Owners = slices.Compact(m.Owners)
	}
	for _, c := range t.sorted() {
		if c.hook == "" {
			continue
		}
		m.Chains = append(m.Chains, describe(t, c))
		if c.hook == "forward" && t.variant != NFTables && slices.ContainsFunc(c.rules, func(r rule) bool {
			return slices.ContainsFunc(targets(r), m.isOurs)
		}) {
			m.OursForward = true
		}
	}
}

// readInterfaces lists those on which strangers' packets may come: up, or all of them
// before the network is; not loopback, and not a bridge or pair that containers and
// virtual machines hang on.
func (m *Machine) readInterfaces() {
	all, err := net.Interfaces()
	if err != nil {
		m.Unread = append(m.Unread, fmt.Sprintf("interfaces: %v", err))
	}
	all = slices.DeleteFunc(all, func(i net.Interface) bool {
		return i.Flags&net.FlagLoopback != 0 || insideName(i.Name)
	})
	down := func(i net.Interface) bool { return i.Flags&net.FlagUp == 0 }
	if up := slices.DeleteFunc(slices.Clone(all), down); len(up) > 0 {
		all = up
	}
	for _, i := range all {
		n := networkInterface{name: i.Name, index: i.Index}
		addresses, err := i.Addrs()
		if err != nil {
			m.Unread = append(m.Unread, fmt.Sprintf("addresses of %s: %v", i.Name, err))
		}
		for _, a := range addresses {
			prefix, err := netip.ParsePrefix(a.String())
			switch {
			case err != nil:
			case prefix.Addr().Is4() && !n.own4.IsValid():
				n.own4 = prefix.Addr()
			case prefix.Addr().Is6() && (!n.own6.IsValid() || n.own6.IsLinkLocalUnicast()):
				n.own6 = prefix.Addr()
			}
		}
		m.interfaces = append(m.interfaces, n)
	}
	if len(m.interfaces) == 0 { // one that has no name yet
		m.interfaces = []networkInterface{{name: "wan0", index: 1 << 20}}
	}
}

func insideName(name string) bool {
	return slices.ContainsFunc([]string{"docker", "br-", "veth", "virbr", "vnet", "cni", "podman", "lxcbr",
		"lxdbr", "cali", "flannel"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (m *Machine) readSystem() {
	on := func(path string) bool {
		b, err := os.ReadFile("/proc/sys/net/" + path)
		if err != nil && !os.IsNotExist(err) {
			m.Unread = append(m.Unread, fmt.Sprintf("forwarding: %v", err))
		}
		return strings.TrimSpace(string(b)) == "1"
	}
	m.Forwarding4 = on("ipv4/ip_forward")
	m.Forwarding6 = on("ipv6/conf/all/forwarding")
	m.IPSet = hasIPSet()
}

package survey

import (
	"fmt"
	"slices"
	"strings"
)

// Obstacles returns the chains of others that stop the probe, the surest first.
// Those that concern a few sources only ([Rarely]) are among them.
func (m *Machine) Obstacles(p Probe) []Obstacle {
	return m.ask(p, func(*table, *chain) bool { return true })
}

// Filtered tells what the input chain of that variant's filter tables does with the
// probe, were there nothing of Postern's: the surest obstacle, and whether there is any.
func (m *Machine) Filtered(v Variant, p Probe) (Obstacle, bool) {
	all := m.ask(p, func(t *table, c *chain) bool {
		return t.variant == v && t.name == "filter" && c.hook == "input"
	})
	if len(all) == 0 {
		return Obstacle{}, false
	}
	return all[0], true
}

// Guards tells for which packets of the probe's Postern's own rules in the kernel shut a
// stranger out: [Always], but for pinholes and keep rules, which single out sources; less
// where they let everybody in, or the time of their trial is over.
func (m *Machine) Guards(p Probe) Level {
	guards := Always
	for _, family := range []int{4, 6} {
		stops := Never
		for _, t := range m.own {
			for _, c := range t.sorted() {
				if t.covers(family) && c.hook == "input" {
					stops = max(stops, m.guards(p, t, c, family))
				}
			}
		}
		guards = min(guards, stops)
	}
	return guards
}

// guards walks one base chain on each interface; the most open one counts.
func (m *Machine) guards(p Probe, t *table, c *chain, family int) Level {
	level := Always
	for _, device := range m.interfaces {
		w := walk{table: t, ours: func(string) bool { return false }, packet: packet{
			family: family, protocol: p.Protocol, port: p.Port, device: device.name,
			index: device.index, own: device.own4,
		}}
		if family == 6 {
			w.packet.own = device.own6
		}
		if w.base(c); t.variant != NFTables && !m.isOurs(w.chainName) {
			w.worst = Never // somebody else's doing
		}
		level = min(level, w.worst)
	}
	return level
}

func (m *Machine) ask(p Probe, wanted func(*table, *chain) bool) []Obstacle {
	var all []Obstacle
	for _, t := range m.tables {
		for _, c := range t.sorted() {
			if !wanted(t, c) {
				continue
			}
			for _, family := range []int{4, 6} {
				if o, ok := m.askChain(p, t, c, family); ok {
					all = append(all, o)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Obstacle) int { return int(b.Level) - int(a.Level) })
	return all
}

// askChain walks one base chain with the probe on each interface.
func (m *Machine) askChain(p Probe, t *table, c *chain, family int) (Obstacle, bool) {
	hooks := []string{"prerouting", "input", "output"}
	if !t.covers(family) || !slices.Contains(hooks, c.hook) {
		return Obstacle{}, false
	}
	var worst walk
	for _, device := range m.interfaces {
		w := walk{table: t, ours: m.isOurs, packet: packet{
			family: family, protocol: p.Protocol, port: p.Port, device: device.name,
			index: device.index, own: device.own4, answer: c.hook == "output",
		}}
		if family == 6 {
			w.packet.own = device.own6
		}
		if w.base(c); w.worst > worst.worst {
			worst = w
		}
	}
	if worst.worst == Never {
		return Obstacle{}, false
	}
	o := Obstacle{
		Level: worst.worst, Does: worst.does.does(), Chain: describe(t, c), Family: family,
		Answers: c.hook == "output", Rule: worst.where,
	}
	o.Mend = mend(o, p)
	return o, true
}

// mend returns the command that lets the probe through, or says where to read of it.
func mend(o Obstacle, p Probe) string {
	if o.Level < Maybe || o.Answers || p.Port == 0 {
		return ""
	}
	port := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	tools := map[Variant][2]string{
		IPTablesNFT:    {"iptables-nft", "ip6tables-nft"},
		IPTablesLegacy: {"iptables-legacy", "ip6tables-legacy"},
	}
	switch {
	case o.Chain.Owner == Postern:
		return "let one set of rules guard the machine: OPERATIONS.md, \"A controller beside a host agent\""
	case o.Chain.Owner == UFW:
		return "ufw allow " + port
	case o.Chain.Owner == Firewalld:
		return "firewall-cmd --permanent --add-port=" + port + " && firewall-cmd --reload"
	case o.Chain.Hook != "input":
		return ""
	case o.Chain.Variant == NFTables:
		return fmt.Sprintf("nft insert rule %s %s %s %s dport %d accept",
			o.Chain.Family, o.Chain.Table, o.Chain.Name, p.Protocol, p.Port)
	}
	tool := tools[o.Chain.Variant][0]
	if o.Chain.Family == "ip6" {
		tool = tools[o.Chain.Variant][1]
	}
	return fmt.Sprintf("%s -I %s -p %s --dport %d -j ACCEPT", tool, o.Chain.Name, p.Protocol, p.Port)
}

func describe(t *table, c *chain) Chain {
	return Chain{
		Variant: t.variant, Family: t.family, Table: t.name, Name: c.name, Hook: c.hook,
		Priority: c.priority, Drops: c.drops, Rules: len(c.rules), Owner: t.owner,
	}
}

// ownerOf tells by the names who wrote a table; a table that several write to is
// the one's who filters in it.
func ownerOf(table string, chains []string) Owner {
	byTable := map[string]Owner{
		"firewalld": Firewalld, "f2b-table": Fail2ban, "libvirt_network": Libvirt, "netavark": Podman,
		"docker-bridges": Docker, "crowdsec": CrowdSec, "crowdsec6": CrowdSec,
		"postern": Postern, "postern_controller": Postern,
	}
	if o, known := byTable[table]; known {
		return o
	}
	for _, sign := range chainSigns() {
		for _, name := range chains {
			if strings.HasPrefix(name, sign.prefix) {
				return sign.owner
			}
		}
	}
	return Unknown
}

type chainSign struct {
	prefix string
	owner  Owner
}

// chainSigns are beginnings of chain names, those of filters for everything first.
func chainSigns() []chainSign {
	return []chainSign{
		{"ufw-", UFW}, {"ufw6-", UFW}, {"IN_public", Firewalld}, {"filter_IN_", Firewalld},
		{"INPUT_ZONES", Firewalld}, {"KUBE-", Kube}, {"cali-", Kube}, {"CILIUM_", Kube},
		{"DOCKER", Docker}, {"NETAVARK", Podman}, {"CNI-", Podman}, {"LIBVIRT_", Libvirt},
		{"f2b-", Fail2ban}, {"CROWDSEC", CrowdSec}, {"POSTERN", Postern},
	}
}

// ownersIn returns everybody whose sign a table has.
func ownersIn(table string, chains []string) []Owner {
	all := []Owner{ownerOf(table, nil)}
	for _, name := range chains {
		all = append(all, ownerOf("", []string{name}))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > 1 {
		all = slices.DeleteFunc(all, func(o Owner) bool { return o == Unknown })
	}
	return all
}

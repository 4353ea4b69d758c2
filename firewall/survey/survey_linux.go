package survey

import "net/netip"

// Config tells the survey what is Postern's own.
type Config struct {
	// Name is the firewall's name (see package choose): of the nftables table, and,
	// in capitals and with a "-" behind it, the beginning of the names of chains.
	Name string
}

// Variant is a way in which a rule set is kept in the kernel.
type Variant string

// The values of Variant.
const (
	NFTables       Variant = "nftables"
	IPTablesNFT    Variant = "iptables-nft"
	IPTablesLegacy Variant = "iptables-legacy"
)

// Owner is the program that wrote a rule set, as its names tell.
type Owner string

// The owners that are known by name.
const (
	UFW       Owner = "ufw"
	Firewalld Owner = "firewalld"
	Docker    Owner = "docker"
	Podman    Owner = "podman"
	Libvirt   Owner = "libvirt"
	Fail2ban  Owner = "fail2ban"
	CrowdSec  Owner = "crowdsec"
	Kube      Owner = "kubernetes"
	Postern   Owner = "postern" // of another name: a controller beside a host agent
	Unknown   Owner = "the administrator"
)

// Machine is what a survey found. Its fields are for printing.
type Machine struct {
	// Ours are the variants in which Postern's own rules are there, under the name given.
	Ours []Variant `json:"ours"`
	// OursForward tells whether Postern's rules judge forwarded packets as well.
	OursForward bool `json:"ours_forward"`
	// OursDormant is set when Postern's nftables table is there and switched off.
	OursDormant bool `json:"ours_dormant,omitempty"`
	// Chains are the base chains of others, where packets come in.
	Chains []Chain `json:"chains"`
	// Owners are those who have rules, each once.
	Owners []Owner `json:"owners"`
	// Published are the ports that the machine sends on to somewhere else.
	Published []Published `json:"published"`
	// Forwarding4 and Forwarding6 tell whether the machine forwards packets at all.
	Forwarding4 bool `json:"forwarding4"`
	Forwarding6 bool `json:"forwarding6"`
	// IPSet tells whether this kernel has, or can load, IP sets.
	IPSet bool `json:"ipset"`
	// Unread says what could not be looked at, and why.
	Unread []string `json:"unread,omitempty"`

	ourPrefix  string
	tables     []*table
	own        []*table // with Postern's own chains
	interfaces []networkInterface
}

// Chain is one base chain.
type Chain struct {
	Variant  Variant `json:"variant"`
	Family   string  `json:"family"` // inet, ip or ip6
	Table    string  `json:"table"`
	Name     string  `json:"name"`
	Hook     string  `json:"hook"` // prerouting, input, forward, output, postrouting
	Priority int     `json:"priority"`
	Drops    bool    `json:"drops"` // policy
	Rules    int     `json:"rules"`
	Owner    Owner   `json:"owner"`
}

// String reads "ip filter INPUT (iptables-nft)".
func (c Chain) String() string {
	text := c.Family + " " + c.Table + " " + c.Name
	if c.Variant != NFTables {
		text += " (" + string(c.Variant) + ")"
	}
	return text
}

// Published is a port that is sent on before the input chains see it.
type Published struct {
	Protocol string `json:"protocol"` // tcp or udp
	First    uint16 `json:"first"`
	Last     uint16 `json:"last"` // First, unless a range
	To       string `json:"to"`   // may be empty when it cannot be read
	Family   string `json:"family"`
	Owner    Owner  `json:"owner"`
}

// Level says for which packets something is so.
type Level uint8

// The levels, from none to all.
const (
	Never  Level = iota
	Rarely       // for packets of some sources, or above some rate
	Maybe        // for packets that differ in what the survey does not know
	Always
)

// String returns the level's name.
func (l Level) String() string {
	switch l {
	case Never:
		return "never"
	case Rarely:
		return "rarely"
	case Maybe:
		return "maybe"
	}
	return "always"
}

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Probe is the packet to ask about: the first of a new flow to a local port.
type Probe struct {
	Protocol string // tcp or udp
	Port     uint16 // 0: any
}

// Obstacle is somebody else's chain that stops the probe.
type Obstacle struct {
	Level  Level  `json:"level"`
	Does   string `json:"does"` // drops, rejects, sends elsewhere
	Chain  Chain  `json:"chain"`
	Family int    `json:"family"` // 4 or 6
	// Answers is set when it is the way back that is stopped.
	Answers bool `json:"answers,omitempty"`
	// Rule says where: a chain's name and the number of the rule, or its policy.
	Rule string `json:"rule"`
	// Mend is a command that would help, or empty.
	Mend string `json:"mend,omitempty"`
}

// networkInterface is one on which strangers' packets come in.
type networkInterface struct {
	name  string
	index int
	own4  netip.Addr // may be invalid
	own6  netip.Addr
}

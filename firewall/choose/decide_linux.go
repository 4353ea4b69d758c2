package choose

import (
	"fmt"
	"slices"

	"github.com/postern-sdp/postern/firewall/survey"
)

// The values of Config.Backend and Choice.Backend.
const (
	Auto     = "auto" // of Config only
	NFTables = "nftables"
	IPTables = "iptables"
	None     = "none"
)

// Choice is what was chosen, and why.
type Choice struct {
	Backend string `json:"backend"`
	// Variant is that of the rules; empty when there is no firewall.
	Variant survey.Variant `json:"variant,omitempty"`
	Reason  string         `json:"reason"`
	// Leaves are the variants in which an earlier installation is still there, to be
	// replaced by Install.
	Leaves []survey.Variant `json:"leaves,omitempty"`
}

// String reads "iptables-nft: ufw's rules in iptables would drop ...".
func (c Choice) String() string {
	if c.Variant == "" {
		return c.Backend + ": " + c.Reason
	}
	return string(c.Variant) + ": " + c.Reason
}

// Decide chooses for a machine. It changes nothing.
func Decide(m *survey.Machine, backend string) (Choice, error) {
	var c Choice
	switch backend {
	case Auto, "":
		c = decideAuto(m)
	case NFTables:
		c = Choice{Backend: NFTables, Variant: survey.NFTables, Reason: "the configuration says so"}
	case IPTables:
		c = Choice{Backend: IPTables, Variant: iptablesVariant(m), Reason: "the configuration says so"}
	case None:
		c = Choice{Backend: None, Reason: "the configuration says so"}
		if len(m.Ours) > 0 {
			c.Reason += fmt.Sprintf("; rules of before are still there (%s)", m.Ours[0])
		}
		return c, nil
	default:
		return Choice{}, fmt.Errorf("%w: %q", ErrBackend, backend)
	}
	for _, v := range m.Ours {
		if v != c.Variant {
			c.Leaves = append(c.Leaves, v)
		}
	}
	return c, nil
}

func decideAuto(m *survey.Machine) Choice {
	if len(m.Ours) > 0 {
		v := m.Ours[0]
		if suited := decideFresh(m).Variant; slices.Contains(m.Ours, suited) {
			v = suited // a change of backends was cut short
		}
		return Choice{Backend: backendOf(v), Variant: v, Reason: "it is installed already"}
	}
	return decideFresh(m)
}

// decideFresh chooses for a machine on which nothing of ours is.
func decideFresh(m *survey.Machine) Choice {
	var worst survey.Obstacle
	for _, v := range iptablesVariants() {
		for _, protocol := range []string{"udp", "tcp"} {
			o, some := m.Filtered(v, survey.Probe{Protocol: protocol})
			if some && o.Level >= survey.Maybe && o.Level > worst.Level {
				worst = o
			}
		}
	}
	if worst.Level == survey.Never {
		return Choice{Backend: NFTables, Variant: survey.NFTables,
			Reason: "no rules in iptables' input chain would drop what an nftables table lets in"}
	}
	whose := string(worst.Chain.Owner) + "'s rules"
	if worst.Chain.Owner == survey.Unknown {
		whose = "rules"
	}
	return Choice{Backend: IPTables, Variant: worst.Chain.Variant, Reason: fmt.Sprintf(
		"%s in iptables would drop what an nftables table lets in (%s)", whose, worst.Rule)}
}

// iptablesVariant is the one to use when the administrator wants iptables: ours of
// before, else the one that has somebody's rules.
func iptablesVariant(m *survey.Machine) survey.Variant {
	for _, v := range iptablesVariants() {
		if slices.Contains(m.Ours, v) {
			return v
		}
	}
	if fresh := decideFresh(m); fresh.Backend == IPTables {
		return fresh.Variant
	}
	for _, v := range iptablesVariants() {
		if slices.ContainsFunc(m.Chains, func(c survey.Chain) bool {
			return c.Variant == v && (c.Rules > 0 || c.Drops)
		}) {
			return v
		}
	}
	return survey.IPTablesNFT
}

func iptablesVariants() []survey.Variant {
	return []survey.Variant{survey.IPTablesNFT, survey.IPTablesLegacy}
}

func backendOf(v survey.Variant) string {
	if v == survey.NFTables {
		return NFTables
	}
	return IPTables
}

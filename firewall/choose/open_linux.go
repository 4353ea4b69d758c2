package choose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/firewall/survey"
)

// Config says what to open.
type Config struct {
	Backend string // Auto (also when empty), NFTables, IPTables or None
	// Name is the nftables table's, and what the names of chains and sets begin with.
	Name string
	// Last is the variant of the time before, if the caller has noted it. Auto takes it
	// where nothing is installed: at boot the rules of others may not be there yet.
	Last survey.Variant
	// Blind is for rules that must be in force: when the machine cannot be surveyed, what
	// was chosen before is opened, or nftables.
	Blind bool
	// Boot is the machine's boot id. When it is not empty, Install closes pinholes of
	// other boots.
	Boot string

	// open and look stand in for the backends and the machine in tests.
	open func(name string, v survey.Variant) (firewall.Firewall, error)
	look func(ctx context.Context, name string) (*survey.Machine, error)
}

// Open surveys the machine, chooses, and opens the backend, which is nil for None.
// It changes no rule. It fails with [firewall.ErrPermission] when the rights are
// missing, and with [ErrNoIPTables] when iptables is ordered and cannot be used.
func Open(ctx context.Context, c Config) (firewall.Firewall, Choice, error) {
	if c.open == nil {
		c.open = c.openBackend
	}
	if c.look == nil {
		c.look = Look
	}
	m, unseen := c.look(ctx, c.Name)
	if unseen != nil {
		if c.Backend != None && (!c.Blind || errors.Is(unseen, firewall.ErrPermission)) {
			return nil, Choice{}, unseen
		}
		m = &survey.Machine{} // None needs no rights
	}
	choice, err := Decide(m, c.Backend)
	if c.recalls(m) {
		choice = Choice{Backend: backendOf(c.Last), Variant: c.Last, Reason: "it was chosen before"}
	}
	if err != nil || choice.Backend == None {
		return nil, choice, err
	}
	if unseen != nil {
		choice = c.unseen(choice, unseen)
	}
	fw, err := c.open(c.Name, choice.Variant)
	if errors.Is(err, ErrNoIPTables) && (c.Backend == Auto || c.Backend == "") && len(m.Ours) == 0 {
		choice.Reason = fmt.Sprintf("iptables was wanted, as %s; but %v", choice.Reason, err)
		choice.Backend, choice.Variant = NFTables, survey.NFTables
		fw, err = c.open(c.Name, choice.Variant)
	}
	if err != nil {
		return nil, Choice{}, fmt.Errorf("open firewall: %w", err)
	}
	fw, err = c.replacing(fw, choice.Leaves)
	return fw, choice, err
}

// recalls reports whether the choice of the time before holds.
func (c Config) recalls(m *survey.Machine) bool {
	known := c.Last == survey.NFTables || slices.Contains(iptablesVariants(), c.Last)
	return (c.Backend == Auto || c.Backend == "") && len(m.Ours) == 0 && known
}

// unseen is the choice for a machine that could not be surveyed, for why.
func (c Config) unseen(choice Choice, why error) Choice {
	if choice.Backend == IPTables && slices.Contains(iptablesVariants(), c.Last) {
		choice.Variant = c.Last
	}
	// A reason is words for people, nobody branches on it.
	choice.Reason = fmt.Sprintf("the machine's other rules are unknown (%v)", why)
	return choice
}

// Look surveys the machine for a firewall of that name.
func Look(ctx context.Context, name string) (*survey.Machine, error) {
	m, err := survey.Look(ctx, survey.Config{Name: name})
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: %w", firewall.ErrPermission, err)
	}
	return m, err
}

// replacing opens what is left of before as well.
func (c Config) replacing(fw firewall.Firewall, leaves []survey.Variant) (firewall.Firewall, error) {
	if len(leaves) == 0 {
		return fw, nil
	}
	r := &replacement{Firewall: fw}
	for _, v := range leaves {
		old, err := c.open(c.Name, v)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open the %s rules of before: %w", v, err), r.Close())
		}
		r.old = append(r.old, old)
	}
	return r, nil
}

func (c Config) openBackend(name string, v survey.Variant) (firewall.Firewall, error) {
	boot, _, _ := strings.Cut(c.Boot, "-") // enough to tell boots apart
	if v == survey.NFTables {
		return nft.New(nft.Config{Table: name, Boot: boot})
	}
	return openIPTables(name, boot, v)
}

package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
)

// Cuts are what stops working when rules are put in force, besides that strangers see
// nothing any more.
type Cuts struct {
	// Forwarding are the interfaces on which no flow through this machine may begin.
	// None: it forwards nothing.
	Forwarding []string `json:"forwarding,omitempty"`
	// Live are connections from elsewhere that nothing lets in.
	Live []Live `json:"live,omitempty"`
	// Guests are the bridges whose machines lose this one's DNS and DHCP.
	Guests []string `json:"guests,omitempty"`
}

// Live is a connection from elsewhere to something that listens here.
type Live struct {
	Port   uint16     `json:"port"` // TCP
	Source netip.Addr `json:"source"`
}

// guestPorts are what a hypervisor's host does for its guests.
func guestPorts() []firewall.Port {
	return []firewall.Port{
		{Protocol: firewall.UDP, Number: 53}, {Protocol: firewall.TCP, Number: 53}, {Protocol: firewall.UDP, Number: 67},
	}
}

// guestBridges are the bridges of libvirt, LXC, LXD, Incus and Podman, whose guests ask the host.
// Docker's do not.
func guestBridges() []string {
	return []string{"virbr*", "lxcbr*", "lxdbr*", "incusbr*", "podman*", "cni-podman*"}
}

// FindCuts tells what rules would cut now. It changes nothing.
func FindCuts(ctx context.Context, c Config, rules firewall.Rules) (Cuts, error) {
	var cuts Cuts
	m, err := choose.Look(ctx, c.Settings.Firewall.Table)
	if err != nil {
		return cuts, err
	}
	all, err := addressed()
	if err != nil {
		return cuts, err
	}
	for _, name := range all {
		if (m.Forwarding4 || m.Forwarding6) && !anyNames(rules.Inside, name) {
			cuts.Forwarding = append(cuts.Forwarding, name)
		}
		if anyNames(guestBridges(), name) && !servesGuests(rules, name) {
			cuts.Guests = append(cuts.Guests, name)
		}
	}
	cuts.Live, err = live(rules)
	return cuts, err
}

// addressed lists the interfaces that packets are routed by: up, with an address, and
// not loopback.
func addressed() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		if slices.ContainsFunc(addresses, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && !p.Addr().IsLinkLocalUnicast()
		}) {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

// anyNames reports whether one of the patterns, which may end in "*", names an interface.
func anyNames(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		beginning, all := strings.CutSuffix(p, "*")
		return p == name || all && strings.HasPrefix(name, beginning)
	})
}

// servesGuests reports whether keep rules let the guests on a bridge ask the host.
func servesGuests(rules firewall.Rules, bridge string) bool {
	return !slices.ContainsFunc(guestPorts(), func(p firewall.Port) bool {
		return !slices.ContainsFunc(rules.Keep, func(k firewall.Keep) bool {
			return anyNames([]string{k.Interface}, bridge) && (len(k.Ports) == 0 || slices.Contains(k.Ports, p))
		})
	})
}

// live lists the connections that come from elsewhere and that no rule keeps. One that
// a rule for an interface might keep is left out.
func live(rules firewall.Rules) ([]Live, error) {
	open, err := sockets()
	if err != nil {
		return nil, err
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	listens := make(map[uint16]bool)
	for _, s := range open {
		if s.protocol == "tcp" && s.state == stateListen {
			listens[s.local.Port()] = true
		}
	}
	var cut []Live
	for _, s := range open {
		source := s.remote.Addr()
		foreign := !source.IsLoopback() && !slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == source
		})
		if s.protocol == "tcp" && s.state == stateEstablished && foreign && listens[s.local.Port()] &&
			!keeps(rules, source, s.local.Port()) {
			cut = append(cut, Live{Port: s.local.Port(), Source: source})
		}
	}
	return cut, nil
}

func keeps(rules firewall.Rules, source netip.Addr, port uint16) bool {
	return slices.ContainsFunc(rules.Keep, func(k firewall.Keep) bool {
		return (!k.Source.IsValid() || k.Source.Contains(source)) &&
			(len(k.Ports) == 0 || slices.Contains(k.Ports, firewall.Port{Protocol: firewall.TCP, Number: port}))
	})
}

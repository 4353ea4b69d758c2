package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
)

// obstacles are the chains of others that stop what is for a port of ours. Until the
// iptables backend is installed, its rules do not stand in front of the others.
func (e *examination) obstacles(port firewall.Port) []survey.Obstacle {
	all := e.machine.Obstacles(survey.Probe{Protocol: port.Protocol.String(), Port: port.Number})
	if e.choice.Backend == choose.IPTables && len(e.machine.Ours) == 0 {
		all = slices.DeleteFunc(all, func(o survey.Obstacle) bool { return o.Chain.Variant == e.choice.Variant })
	}
	return all
}

func otherFilters(e *examination) Finding {
	const name = "other filters"
	if e.machineErr != nil {
		return Finding{name, Skip, e.blind(), "run it as root"}
	}
	whose := "none"
	if len(e.machine.Owners) > 0 {
		var names []string
		for _, o := range e.machine.Owners {
			names = append(names, string(o))
		}
		whose = "rules of " + strings.Join(names, ", ")
	}
	stops := e.obstacles(e.port())
	if len(stops) > 0 && stops[0].Level >= survey.Maybe {
		return obstacleFinding(name, stops, e.port())
	}
	found := whose
	if len(e.machine.Owners) > 0 {
		found += fmt.Sprintf("; they let %s through", e.port())
	}
	if len(stops) > 0 {
		found += fmt.Sprintf(", but for some sources (%s)", stops[0].Rule)
	}
	if len(e.machine.Unread) > 0 {
		return Finding{name, Warn, found + "; not looked at: " + strings.Join(e.machine.Unread, "; "), ""}
	}
	return Finding{name, OK, found, ""}
}

func obstacleFinding(name string, stops []survey.Obstacle, port firewall.Port) Finding {
	first := stops[0]
	f := Finding{Name: name, State: Warn, Do: first.Mend}
	verb := "might stop"
	if first.Level == survey.Always {
		f.State, verb = Fail, first.Does
	}
	var families []string
	for _, o := range stops {
		if text := fmt.Sprintf("IPv%d", o.Family); o.Level == first.Level && !slices.Contains(families, text) {
			families = append(families, text)
		}
	}
	slices.Sort(families)
	what := "what we let in on"
	if first.Answers {
		what = "our answers from"
	}
	f.Found = fmt.Sprintf("%s: %s %s %s %s (%s, %s)", first.Chain.Owner, first.Chain, verb, what, port,
		first.Rule, strings.Join(families, " and "))
	if f.Do == "" {
		f.Do = "let it through in that chain"
	}
	return f
}

func forwarding(e *examination) Finding {
	const name = "forwarding"
	if e.machineErr != nil {
		return Finding{name, Skip, e.blind(), "run it as root"}
	}
	var on []string
	if e.machine.Forwarding4 {
		on = append(on, "IPv4")
	}
	if e.machine.Forwarding6 {
		on = append(on, "IPv6")
	}
	if len(on) == 0 {
		return Finding{name, OK, "off", ""}
	}
	found := "on for " + strings.Join(on, " and ")
	rules, err := e.Settings.Rules()
	switch {
	case err != nil:
		return Finding{name, Skip, found + "; " + oneLine(err), ""}
	case !e.installed:
		return Finding{name, Warn, found + ", and our rules are not there to judge what is sent on", ""}
	case len(rules.Inside) == 0:
		return Finding{name, Warn, found + "; no interface is inside, so nothing may begin a flow through here",
			"name the interfaces of containers or the inner network in the configuration, if there are any"}
	}
	return Finding{name, OK, found + "; flows through here may begin on " + strings.Join(rules.Inside, ", "), ""}
}

func ipv6(e *examination) Finding {
	const name = "IPv6"
	global, err := globalIPv6()
	switch {
	case err != nil:
		return Finding{name, Skip, oneLine(err), ""}
	case !global:
		return Finding{name, OK, "no global address", ""}
	case e.installed:
		if a := e.listen().Addr(); a.Is4() {
			return Finding{name, Warn, "covered by our rules; the tunnel listens on IPv4 only",
				`tunnel.listen = "[::]:` + fmt.Sprint(e.listen().Port()) + `" serves both`}
		}
		return Finding{name, OK, "covered by the same rules as IPv4", ""}
	case e.machineErr != nil:
		return Finding{name, Skip, e.blind(), "run it as root"}
	}
	if four, six := e.filteredFamilies(); four && !six {
		return Finding{name, Fail, "somebody filters IPv4 here, and nobody IPv6", "our rules will cover both"}
	}
	return Finding{name, Warn, "there are global addresses, and our rules are not there", ""}
}

// filteredFamilies reports which versions of IP others drop by default.
func (e *examination) filteredFamilies() (four, six bool) {
	for _, o := range e.machine.Obstacles(survey.Probe{Protocol: "tcp"}) {
		if o.Level == survey.Always && !o.Answers {
			four = four || o.Family == 4
			six = six || o.Family == 6
		}
	}
	return four, six
}

func globalIPv6() (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Is6() && p.Addr().IsGlobalUnicast()
	}), nil
}

// wide is the shortest prefix of an IPv4 and of an IPv6 network that is taken for
// somebody's own.
func wide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16
}

func keepRules(e *examination) Finding {
	const name = "keep rules"
	rules, err := e.Settings.Rules()
	if err != nil {
		return Finding{name, Fail, oneLine(err), ""}
	}
	var open []string
	for _, k := range rules.Keep {
		if k.Source.IsValid() && wide(k.Source) || !k.Source.IsValid() && k.Interface == "" {
			open = append(open, k.String())
		}
	}
	switch {
	case len(open) > 0:
		return Finding{name, Warn, "open to much of the world: " + strings.Join(open, "; "),
			"name the networks that administrators come from"}
	case len(rules.Keep) == 0:
		return Finding{name, OK, "none: nobody gets in without a knock", ""}
	}
	return Finding{name, OK, fmt.Sprintf("%d, each for a network or interface", len(rules.Keep)), ""}
}

package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/survey"
)

// doors lists what answers here, and says who gets to it.
func (e *examination) doors() ([]Door, error) {
	sockets, err := listening()
	if err != nil {
		return nil, err
	}
	var all []Door
	for _, s := range sockets {
		d := Door{Protocol: s.protocol, Address: s.local.Addr().String(), Port: s.local.Port(), Program: s.program}
		d.Sees, d.Why = e.sight(d, families(s.local.Addr()))
		all = append(all, d)
	}
	if e.machineErr != nil {
		return all, nil
	}
	for _, p := range e.machine.Published {
		d := Door{Protocol: p.Protocol, Address: p.To, Port: p.First, Program: string(p.Owner), Published: true}
		if p.Last != p.First {
			d.Last = p.Last
		}
		d.Sees, d.Why = e.publishedSight(d)
		all = append(all, d)
	}
	return all, nil
}

// families are the versions of IP in which a socket takes packets. One on the IPv6
// wildcard may take IPv4 as well.
func families(a netip.Addr) []int {
	switch {
	case a.Is4():
		return []int{4}
	case a.IsUnspecified():
		return []int{4, 6}
	}
	return []int{6}
}

// sight says who gets to a listening socket.
func (e *examination) sight(d Door, families []int) (Sight, string) {
	switch {
	case e.machineErr != nil:
		return Unsure, "the rules cannot be read"
	case e.installed:
		return e.protectedSight(d)
	}
	stopped := map[int]survey.Obstacle{}
	for _, o := range e.machine.Obstacles(survey.Probe{Protocol: d.Protocol, Port: d.Port}) {
		if _, known := stopped[o.Family]; !known && !o.Answers { // the surest comes first
			stopped[o.Family] = o
		}
	}
	sees, why := Hidden, ""
	for _, f := range families {
		o := stopped[f]
		switch {
		case o.Level <= survey.Rarely:
			return Visible, ""
		case o.Level == survey.Maybe:
			sees, why = Unsure, fmt.Sprintf("%s may stop it", o.Chain)
		case sees == Hidden:
			why = fmt.Sprintf("%s: %s", o.Chain.Owner, o.Chain)
		}
	}
	return sees, why
}

// protectedSight is what our rules say: those in the kernel whether everybody gets in,
// the configured ones who does.
func (e *examination) protectedSight(d Door) (Sight, string) {
	if e.machine.Guards(survey.Probe{Protocol: d.Protocol, Port: d.Port}) < survey.Always {
		return Visible, "our rules in the kernel let everybody in there"
	}
	rules, err := e.Settings.Rules()
	if err != nil {
		return Unsure, oneLine(err)
	}
	var who []string
	for _, k := range rules.Keep {
		if !covers(k, d) {
			continue
		}
		k.Ports = nil
		who = append(who, k.String())
	}
	if len(who) > 0 {
		return Kept, strings.Join(who, "; ")
	}
	return Dark, ""
}

// covers reports whether a keep rule lets somebody in to one of the door's ports.
func covers(k firewall.Keep, d Door) bool {
	if len(k.Ports) == 0 {
		return true
	}
	for _, p := range k.Ports {
		if p.Protocol.String() == d.Protocol && p.Number >= d.Port && p.Number <= max(d.Port, d.Last) {
			return true
		}
	}
	return false
}

// publishedSight says who gets to a port that is sent on.
func (e *examination) publishedSight(d Door) (Sight, string) {
	switch {
	case e.installed && e.machine.OursForward:
		return e.protectedSight(d)
	case e.installed:
		return Visible, "our rules do not judge what is sent on"
	}
	return Visible, "sent on before the input rules"
}

// stranger sums up the doors.
func stranger(e *examination, doors []Door, err error) Finding {
	const name = "a stranger"
	visible, unsure := count(doors, Visible), count(doors, Unsure)
	switch {
	case err != nil:
		return Finding{name, Skip, "what a stranger sees cannot be told", "run it as root"}
	case visible == 0 && unsure == 0 && e.installed:
		return Finding{name, OK, "a stranger sees nothing", ""}
	case visible == 0 && unsure == 0 && len(doors) == 0:
		return Finding{name, Warn, "nothing listens, but a stranger sees that there is a machine", ""}
	case visible == 0 && unsure == 0:
		return Finding{name, Warn, "a stranger gets to nothing, thanks to other filters, " +
			"but can see that there is a machine", ""}
	case visible == 0:
		return Finding{name, Warn, "a stranger may see " + plural(unsure, "port"), ""}
	}
	var ports []string
	for _, d := range doors {
		if d.Sees == Visible {
			ports = append(ports, fmt.Sprintf("%s/%d", d.Protocol, d.Port))
		}
	}
	f := Finding{name, Warn, fmt.Sprintf("a stranger sees %s: %s", plural(len(unique(ports)), "port"),
		strings.Join(unique(ports), ", ")), ""}
	if e.installed {
		f.Do = "keep rules let everybody in there"
	}
	return f
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func unique(all []string) []string {
	var kept []string
	seen := map[string]bool{}
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/doctor"
)

// describe says in words who gets to what once rules are in force.
func describe(w io.Writer, doors []doctor.Door, rules firewall.Rules) {
	var dark, open []string
	for _, d := range doors {
		name := fmt.Sprintf("%s/%d", d.Protocol, d.Port)
		if d.Program != "" {
			name += " (" + d.Program + ")"
		}
		if d.Published {
			name += " sent on to " + d.Address
		}
		keeps := d.Keeps(rules)
		if len(keeps) == 0 {
			dark = append(dark, name)
			continue
		}
		var who []string
		for _, k := range keeps {
			k.Ports, k.TTL = nil, k.TTL.Round(time.Second)
			who = append(who, k.String())
		}
		open = append(open, fmt.Sprintf("%s to %s", name, strings.Join(who, "; ")))
	}
	fmt.Fprintf(w, "dark to everybody who has not knocked: %s\n", listed(dark))
	fmt.Fprintf(w, "open without a knock: %s\n", listed(open))
}

func listed(items []string) string {
	if len(items) == 0 {
		return "nothing"
	}
	return strings.Join(unique(items), ", ")
}

func unique(all []string) []string {
	var kept []string
	seen := make(map[string]bool)
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}

// maxListed is how many sources of cut connections are named.
const maxListed = 10

// describeCuts says in words what stops working beside that.
func describeCuts(w io.Writer, c doctor.Cuts) {
	if len(c.Live) > 0 {
		var who []string
		for _, l := range c.Live {
			who = append(who, fmt.Sprintf("tcp/%d from %s", l.Port, l.Source))
		}
		if who = unique(who); len(who) > maxListed {
			who = append(who[:maxListed], fmt.Sprintf("and %d more", len(who)-maxListed))
		}
		fmt.Fprintf(w, "connections that are cut: %s\n", listed(who))
	}
	if len(c.Forwarding) > 0 {
		fmt.Fprintf(w, "this machine forwards: what begins on %s is cut, unless it goes to a published port and is let in there "+
			"(firewall.inside names where flows may begin)\n", listed(c.Forwarding))
	}
	for _, bridge := range c.Guests {
		fmt.Fprintf(w, "guests on %s lose this machine's DNS and DHCP; to keep them: [[keep]] with interface = %q, "+
			"ports = [\"udp/53\", \"tcp/53\", \"udp/67\"]\n", bridge, bridge)
	}
}

// describeAgent says in a few words whether somebody is there to open doors.
func describeAgent(s host.Status, fault error) string {
	if why := linkless(s, fault); why != "" {
		return why
	}
	return "the agent runs, and is connected to its controller"
}

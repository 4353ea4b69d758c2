package iptables

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-sdp/postern/firewall"
)

// longestName leaves room for what is put behind it: sets have up to 31
// characters, chains up to 28.
const longestName = 18

// name is what all names of one instance begin with. It contains no "-", so that
// no instance's names begin with another's.
type name string

func (n name) valid() bool {
	for i, r := range n {
		digit := r >= '0' && r <= '9' || r == '_'
		if (r < 'a' || r > 'z') && (!digit || i == 0) {
			return false
		}
	}
	return n != "" && len(n) <= longestName
}

// chain returns "POSTERN-INPUT" for input.
func (n name) chain(suffix string) string { return strings.ToUpper(string(n)) + "-" + suffix }

// set returns "postern-never" for never.
func (n name) set(suffix string) string { return string(n) + "-" + suffix }

// The sets that do not belong to a door or a timer.
const (
	// neverSet is empty and stays so. The jumps to our chains refer to it, and the
	// last rule of each chain, so that its count of references tells whether they
	// are there.
	neverSet = "never"
	// lockSet holds the one that changes rules, while it does.
	lockSet = "holder"
	// bootMark is what the suffix begins with of the empty set that says in which boot
	// the pinholes were made.
	bootMark = "boot"
)

// doorsSet has the ports of one protocol that ever had a pinhole.
func doorsSet(p firewall.Protocol) string { return "doors-" + letter(p) }

// serversSet has the machines behind published ports that were sent a datagram.
func serversSet(v6 bool) string { return "servers" + digit(v6) }

// door is a local port that has had a pinhole.
type door firewall.Port

func doorOf(p firewall.Pinhole) door { return door{p.Protocol, p.Port} }

// set is the suffix of the door's list of sets: "t22" or "u4042".
func (d door) set() string { return letter(d.Protocol) + strconv.Itoa(int(d.Number)) }

// sources is the suffix of the door's set of clients of one kind: "u4042-x4" for
// exact ones of IPv4, "u4042-w6" for IPv6 addresses with any port.
func (d door) sources(exact, v6 bool) string {
	kind := "-w"
	if exact {
		kind = "-x"
	}
	return d.set() + kind + digit(v6)
}

// parseDoor reads what set and sources wrote, and tells which of both.
func parseDoor(suffix string) (d door, list, ok bool) {
	text, _, isSources := strings.Cut(suffix, "-")
	d.Protocol = firewall.TCP
	number, ok := strings.CutPrefix(text, letter(firewall.TCP))
	if !ok {
		d.Protocol = firewall.UDP
		number, ok = strings.CutPrefix(text, letter(firewall.UDP))
	}
	k, err := strconv.ParseUint(number, 10, 16)
	d.Number = uint16(k)
	return d, !isSources, ok && err == nil && d.set() == text && k > 0
}

// timer is the suffix of a timer's set: "k0-trial-4", "k3-1-6".
type timer struct {
	generation int
	what       string
}

const timers = "k"

func (t timer) set(v6 bool) string {
	return fmt.Sprintf("%s%d-%s-%s", timers, t.generation, t.what, digit(v6))
}

// parseGeneration reads the generation of a timer's set from its suffix.
func parseGeneration(suffix string) (int, bool) {
	number, _, found := strings.Cut(suffix, "-")
	number, ok := strings.CutPrefix(number, timers)
	k, err := strconv.ParseUint(number, 10, 16)
	return int(k), found && ok && err == nil
}

func letter(p firewall.Protocol) string {
	if p == firewall.TCP {
		return "t"
	}
	return "u"
}

func digit(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

func families() []bool { return []bool{false, true} }

func protocols() []firewall.Protocol { return []firewall.Protocol{firewall.TCP, firewall.UDP} }

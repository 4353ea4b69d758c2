package lab

import (
	"errors"
	"net/netip"
	"strings"
	"time"
)

// neighbourV4 is who shares the client's NAT.
var neighbourV4 = netip.MustParseAddr("10.7.0.3")

// onlookers have no business with a machine and probe it all along: a stranger, over
// IPv4 and IPv6, and the client's neighbour behind the same NAT. What may answer them
// is said when a phase begins, and holds to its very end.
type onlookers []*Watch

// onlook begins to probe the ports of a machine's addresses, of each family one.
func (l *Lab) onlook(ports []uint16, machines ...netip.Addr) (onlookers, error) {
	var fromStranger, fromNeighbour []netip.Addr
	for _, m := range machines {
		if m.Is6() {
			fromStranger = append(fromStranger, StrangerV6, m)
			continue
		}
		fromStranger = append(fromStranger, StrangerV4, m)
		fromNeighbour = append(fromNeighbour, neighbourV4, m)
	}
	stranger, err := l.Watch("stranger", ports, fromStranger...)
	if err != nil {
		return nil, err
	}
	neighbour, err := l.Watch("neighbour", ports, fromNeighbour...)
	if err != nil {
		_, closeErr := stranger.Close()
		return nil, errors.Join(err, closeErr)
	}
	return onlookers{stranger, neighbour}, nil
}

// dark begins a phase in which nobody may get an answer, and returns the ended ones.
func (o onlookers) dark(name string) []Phase { return o.mark(name, nil) }

// shared begins a phase in which the client's address is let in to ports of its own,
// and with it whoever is behind the same NAT: the stranger is not.
func (o onlookers) shared(name string, kinds ...string) { o.mark(name, kinds) }

// open begins a phase in which there is nothing to hide, or in which it is just being
// hidden or shown.
func (o onlookers) open(name string) {
	for _, w := range o {
		w.Mark(name, anything)
	}
}

func (o onlookers) mark(name string, neighbour []string) []Phase {
	var ended []Phase
	for _, w := range o {
		may := neighbour
		if w.From != "neighbour" {
			may = nil
		}
		ended = append(ended, w.Mark(name, may...))
	}
	return ended
}

// faults says which phases so far, the present one included, were not what they were
// said to be.
func (o onlookers) faults() error {
	var all []error
	for _, w := range o {
		all = append(all, w.Faults())
	}
	return errors.Join(all...)
}

// sees looks for a while longer at what the present phase brings.
func (o onlookers) sees(for_ time.Duration) (string, error) {
	time.Sleep(for_)
	var seen []string
	for _, w := range o {
		seen = append(seen, w.From+": "+w.Now().String())
	}
	return strings.Join(seen, "; "), o.faults()
}

// Log is what the probing saw, phase by phase.
func (o onlookers) Log() string {
	var logs []string
	for _, w := range o {
		logs = append(logs, w.Log())
	}
	return strings.Join(logs, "\n")
}

// Close ends the probing. Its error tells of faults that nobody has asked for.
func (o onlookers) Close() error {
	all := []error{o.faults()}
	for _, w := range o {
		_, err := w.Close()
		all = append(all, err)
	}
	return errors.Join(all...)
}

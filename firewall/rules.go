package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Rules are what stays open besides the pinholes. The zero Rules drop everything
// that is not loopback, a reply to the host's own flows, or what the network
// itself needs (neighbour discovery, path-MTU messages, DHCP).
//
// Packets that the host forwards are judged alike. Those of a flow that began on an
// Inside interface pass. Those of a flow that was addressed to a port of the host's
// own and sent on by DNAT, as to a container, pass when a pinhole, a Keep or an
// OpenPort lets their source in to that port. Nothing else does.
type Rules struct {
	// OpenPorts are reachable by every source and get no default drop: the knock
	// port of a controller that listens on a socket.
	OpenPorts []Port
	// Keep lets an administrator's sources in without a knock.
	Keep []Keep
	// Inside are the interfaces on which forwarded flows may begin: the bridges of
	// containers, the LAN side of a gateway. A name may end in "*".
	Inside []string
	// Trial, when positive, is for how long the rules are in force. The kernel
	// counts it: from its end on the table lets everything through, whether
	// anybody is left to remove it or not. Zero: until Remove.
	Trial time.Duration
}

// Port is one local port.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// Keep is a standing exception: packets from Source that come in by Interface are
// accepted to Ports.
type Keep struct {
	Source    netip.Prefix // zero: any, and Interface is not empty
	Interface string       // empty: any; a name may end in "*"
	Ports     []Port       // none means all
	// TTL, when positive, is the time left, kept by the kernel. Zero: standing.
	TTL time.Duration
}

// Validate reports the first fault in r.
func (r Rules) Validate() error {
	for _, p := range r.OpenPorts {
		if err := p.validate(); err != nil {
			return fmt.Errorf("open ports: %w", err)
		}
	}
	for _, k := range r.Keep {
		if err := k.validate(); err != nil {
			return fmt.Errorf("keep %s: %w", k, err)
		}
	}
	for _, name := range r.Inside {
		if !validInterface(name) {
			return fmt.Errorf("inside: %w: %q", ErrInterface, name)
		}
	}
	if r.Trial < 0 {
		return fmt.Errorf("trial: %w: %s", ErrTTL, r.Trial)
	}
	return nil
}

// String reads "192.0.2.0/24 on eth0 to tcp/22 (for 5m0s)".
func (k Keep) String() string {
	text := "anyone"
	if k.Source.IsValid() {
		text = k.Source.String()
	}
	if k.Interface != "" {
		text += " on " + k.Interface
	}
	for i, p := range k.Ports {
		if i == 0 {
			text += " to "
		} else {
			text += ", "
		}
		text += p.String()
	}
	if k.TTL != 0 {
		text += fmt.Sprintf(" (for %s)", k.TTL)
	}
	return text
}

func (k Keep) validate() error {
	switch {
	case k.Interface != "" && !validInterface(k.Interface):
		return fmt.Errorf("%w: %q", ErrInterface, k.Interface)
	case k.Source == netip.Prefix{} && k.Interface != "":
	case !k.Source.IsValid() || k.Source.Addr().Is4In6() || k.Source.Addr().Zone() != "":
		return ErrSource
	case k.TTL < 0:
		return fmt.Errorf("%w: %s", ErrTTL, k.TTL)
	}
	for _, p := range k.Ports {
		if err := p.validate(); err != nil {
			return err
		}
	}
	return nil
}

// longestInterface is IFNAMSIZ without its final zero (netdevice(7)).
const longestInterface = 15

// validInterface reports whether name is one that the kernel takes, or such a
// name's beginning and a "*".
func validInterface(name string) bool {
	name, _ = strings.CutSuffix(name, "*")
	if name == "" || len(name) > longestInterface || name == "." || name == ".." {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("/:*+!\"'\\", r)
	}) < 0
}

// String reads "tcp/22".
func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Number) }

func (p Port) validate() error {
	if p.Protocol != TCP && p.Protocol != UDP {
		return fmt.Errorf("%w: %s", ErrProtocol, p.Protocol)
	}
	if p.Number == 0 {
		return ErrPort
	}
	return nil
}

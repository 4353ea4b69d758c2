package firewall

import (
	"fmt"
	"net/netip"
)

// Rules are what stays open for everyone besides the pinholes. The zero Rules
// drop everything that is not loopback, a reply to the host's own flows, or
// what the network itself needs (neighbour discovery, path-MTU messages, DHCP).
type Rules struct {
	// OpenPorts are reachable by every source and get no default drop: the knock
	// port of a controller that listens on a socket.
	OpenPorts []Port
	// Keep lets an administrator's sources in without a knock.
	Keep []Keep
}

// Port is one local port.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// Keep is a standing exception: packets from Source to Ports are accepted.
type Keep struct {
	Source netip.Prefix
	Ports  []Port // none means all
}

// Validate reports the first fault in r.
func (r Rules) Validate() error {
	for _, p := range r.OpenPorts {
		if err := p.validate(); err != nil {
			return fmt.Errorf("open ports: %w", err)
		}
	}
	for _, k := range r.Keep {
		if !k.Source.IsValid() || k.Source.Addr().Is4In6() {
			return fmt.Errorf("keep: %w: %s", ErrSource, k.Source)
		}
		for _, p := range k.Ports {
			if err := p.validate(); err != nil {
				return fmt.Errorf("keep %s: %w", k.Source, err)
			}
		}
	}
	return nil
}

func (p Port) validate() error {
	if p.Protocol != TCP && p.Protocol != UDP {
		return fmt.Errorf("%w: %s", ErrProtocol, p.Protocol)
	}
	if p.Number == 0 {
		return ErrPort
	}
	return nil
}

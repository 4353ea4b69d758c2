package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Clients on the internet itself, with no NAT in between.
var (
	SixV6  = netip.MustParseAddr("2001:db8:1::40") // has IPv6 and nothing else
	DualV4 = netip.MustParseAddr("198.51.100.42")  // has both
	DualV6 = netip.MustParseAddr("2001:db8:1::42")
)

// AddClient adds a machine with these addresses to the internet, and enrols a device
// of alice's there.
func (l *Lab) AddClient(ctx context.Context, name string, addresses ...netip.Addr) error {
	var prefixes []string
	for _, a := range addresses {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		prefixes = append(prefixes, netip.PrefixFrom(a, bits).String())
	}
	l.clients++
	err := l.addMachine(300+l.clients, link{from: name, to: "internet", bridge: "br0", fromAddresses: prefixes})
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return l.enrolClient(ctx, name)
}

// BlackHole makes what a client of the internet sends to some of its addresses vanish
// on its way, as a broken tunnel or a careless firewall does: nothing says that it did
// not arrive.
func (l *Lab) BlackHole(client string, addresses ...netip.Addr) error {
	return l.in(client, func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range addresses {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(),
				HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x99}, // nobody's
			})
			if err != nil {
				return fmt.Errorf("send what is for %s nowhere: %w", a, err)
			}
		}
		return nil
	})
}

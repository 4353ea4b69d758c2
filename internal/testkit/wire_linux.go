package testkit

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Interface is the name of the interface that Attach makes.
const Interface = "eth0"

// Cable joins two namespaces by a pair of virtual interfaces and gives each end
// its addresses, in the form 192.0.2.1/24.
func Cable(t testing.TB, a *Namespace, aName string, aAddresses []string,
	b *Namespace, bName string, bAddresses []string) {
	t.Helper()
	a.handle(t, func(h *netlink.Handle) error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: aName},
			PeerName:  bName, PeerNamespace: netlink.NsFd(b.ns),
		}
		if err := h.LinkAdd(pair); err != nil {
			return fmt.Errorf("make cable %s to %s: %w", aName, bName, err)
		}
		return nil
	})
	a.Address(t, aName, aAddresses...)
	b.Address(t, bName, bAddresses...)
	for _, end := range []struct {
		inside *Namespace
		name   string
	}{{a, aName}, {b, bName}} {
		Eventually(t, linkTime, end.name+" is up and its addresses are usable", func() bool {
			return end.inside.usable(t, end.name)
		})
	}
}

// linkTime bounds the wait for a cable; the kernel notices within a second.
const linkTime = 5 * time.Second

// usable reports whether an interface is up and no IPv6 address is tentative:
// the kernel notices the other end of a cable only after a while.
func (n *Namespace) usable(t testing.TB, name string) (ok bool) {
	t.Helper()
	n.device(t, name, func(h *netlink.Handle, l netlink.Link) error {
		addresses, err := h.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		ok = l.Attrs().OperState == netlink.OperUp
		for _, a := range addresses {
			ok = ok && a.Flags&syscall.IFA_F_TENTATIVE == 0
		}
		return nil
	})
	return ok
}

// Address brings an interface up and adds addresses to it.
func (n *Namespace) Address(t testing.TB, name string, addresses ...string) {
	t.Helper()
	n.device(t, name, func(h *netlink.Handle, l netlink.Link) error {
		for _, text := range addresses {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if err := h.AddrReplace(l, addr); err != nil {
				return fmt.Errorf("address %s: %w", text, err)
			}
		}
		return h.LinkSetUp(l)
	})
}

// MTU sets the largest packet of an interface, in bytes.
func (n *Namespace) MTU(t testing.TB, name string, bytes int) {
	t.Helper()
	n.device(t, name, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetMTU(l, bytes)
	})
}

// Route sends what is for destination ("default4", "default6" or a prefix) to gateway.
func (n *Namespace) Route(t testing.TB, destination, gateway string) {
	t.Helper()
	switch destination {
	case "default4":
		destination = "0.0.0.0/0"
	case "default6":
		destination = "::/0"
	}
	_, to, err := net.ParseCIDR(destination)
	if err != nil {
		t.Fatalf("route: %v", err)
	}
	n.handle(t, func(h *netlink.Handle) error {
		err := h.RouteReplace(&netlink.Route{Dst: to, Gw: net.ParseIP(gateway)})
		if err != nil {
			return fmt.Errorf("route %s via %s: %w", destination, gateway, err)
		}
		return nil
	})
}

// ForgetNeighbours empties the ARP and neighbour caches of an interface.
func (n *Namespace) ForgetNeighbours(t testing.TB, name string) {
	t.Helper()
	n.device(t, name, func(h *netlink.Handle, l netlink.Link) error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			known, err := h.NeighList(l.Attrs().Index, family)
			if err != nil {
				return err
			}
			for _, k := range known {
				if k.State&netlink.NUD_NOARP != 0 {
					continue
				}
				if err := h.NeighDel(&k); err != nil {
					return fmt.Errorf("forget %s: %w", k.IP, err)
				}
			}
		}
		return nil
	})
}

// ForgetFlows empties the connection tracking table.
func (n *Namespace) ForgetFlows(t testing.TB) {
	t.Helper()
	n.handle(t, func(h *netlink.Handle) error {
		if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("forget flows: %w", err)
		}
		return nil
	})
}

// Switch is a bridge in a namespace of its own.
type Switch struct {
	inside *Namespace
	ports  int
}

// NewSwitch makes a switch without cables.
func NewSwitch(t testing.TB) *Switch {
	t.Helper()
	inside := Netns(t)
	inside.handle(t, func(h *netlink.Handle) error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
		// Without listeners to ask for, multicast goes to every port.
		off := false
		bridge.MulticastSnooping = &off
		if err := h.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make switch: %w", err)
		}
		return h.LinkSetUp(bridge)
	})
	return &Switch{inside: inside}
}

// Attach makes a namespace whose interface eth0 is on the switch.
func (s *Switch) Attach(t testing.TB, addresses ...string) *Namespace {
	t.Helper()
	n := Netns(t)
	s.Plug(t, n, Interface, addresses...)
	return n
}

// Plug adds an interface on the switch to a namespace that is there.
func (s *Switch) Plug(t testing.TB, n *Namespace, name string, addresses ...string) {
	t.Helper()
	port := fmt.Sprintf("port%d", s.ports)
	s.ports++
	Cable(t, n, name, addresses, s.inside, port, nil)
	s.inside.device(t, port, func(h *netlink.Handle, l netlink.Link) error {
		bridge, err := h.LinkByName("switch")
		if err != nil {
			return err
		}
		return h.LinkSetMaster(l, bridge)
	})
}

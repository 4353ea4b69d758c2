package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Addresses of the lab's internet.
var (
	ControllerV4 = netip.MustParseAddr("198.51.100.20")
	ControllerV6 = netip.MustParseAddr("2001:db8:1::20")
	HostV4       = netip.MustParseAddr("198.51.100.30")
	HostV6       = netip.MustParseAddr("2001:db8:1::30")
	StrangerV4   = netip.MustParseAddr("198.51.100.66")
	StrangerV6   = netip.MustParseAddr("2001:db8:1::66")
	NatV4        = netip.MustParseAddr("198.51.100.10")
	Nat2ToOthers = netip.MustParseAddr("198.51.100.11")
	Nat2ToHost   = netip.MustParseAddr("198.51.100.12")
)

// link is one veth pair: `from` gets an interface eth0 (or the name given) with
// addresses, the other end joins a bridge called `bridge` in namespace `to`, or
// is a plain interface with addresses there.
type link struct {
	from, fromName string
	fromAddresses  []string
	to             string
	bridge         string
	toAddresses    []string
	gateway        string
}

// machines are the lab's namespaces, the internet first.
var machines = []string{
	"internet", "stranger", "controller", "host", "nat", "client", "neighbour", "nat2", "roamer",
}

var links = []link{
	{from: "stranger", to: "internet", bridge: "br0",
		fromAddresses: []string{"198.51.100.66/24", "2001:db8:1::66/64"}},
	{from: "controller", to: "internet", bridge: "br0",
		fromAddresses: []string{"198.51.100.20/24", "2001:db8:1::20/64"}},
	{from: "host", to: "internet", bridge: "br0",
		fromAddresses: []string{"198.51.100.30/24", "2001:db8:1::30/64"}},
	{from: "nat", fromName: "wan", to: "internet", bridge: "br0",
		fromAddresses: []string{"198.51.100.10/24"}},
	{from: "nat2", fromName: "wan", to: "internet", bridge: "br0",
		fromAddresses: []string{"198.51.100.11/24", "198.51.100.12/24"}},
	{from: "client", to: "nat", bridge: "lan",
		fromAddresses: []string{"10.7.0.2/24"}, toAddresses: []string{"10.7.0.1/24"}, gateway: "10.7.0.1"},
	{from: "neighbour", to: "nat", bridge: "lan",
		fromAddresses: []string{"10.7.0.3/24"}, gateway: "10.7.0.1"},
	{from: "roamer", to: "nat2", bridge: "lan",
		fromAddresses: []string{"10.8.0.2/24"}, toAddresses: []string{"10.8.0.1/24"}, gateway: "10.8.0.1"},
}

// buildNetwork makes the namespaces and wires them.
func (l *Lab) buildNetwork() error {
	for _, name := range machines {
		if err := l.addNamespace(name); err != nil {
			return err
		}
		if err := l.in(name, loopbackUp); err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
	}
	for i, k := range links {
		if err := l.addLink(i, k); err != nil {
			return fmt.Errorf("link %s to %s: %w", k.from, k.to, err)
		}
	}
	for _, name := range machines {
		if err := l.in(name, linksUp); err != nil {
			return fmt.Errorf("wait for the links of %s: %w", name, err)
		}
	}
	if err := l.in("nat", func() error { return masquerade(NatV4, netip.Addr{}, NatV4) }); err != nil {
		return fmt.Errorf("set up nat: %w", err)
	}
	err := l.in("nat2", func() error { return masquerade(Nat2ToOthers, HostV4, Nat2ToHost) })
	if err != nil {
		return fmt.Errorf("set up nat2: %w", err)
	}
	return nil
}

// addMachine adds one to a standing network.
func (l *Lab) addMachine(number int, k link) error {
	if err := l.addNamespace(k.from); err != nil {
		return err
	}
	if err := l.in(k.from, loopbackUp); err != nil {
		return err
	}
	if err := l.addLink(number, k); err != nil {
		return err
	}
	return errors.Join(l.in(k.from, linksUp), l.in(k.to, linksUp))
}

// forwarding makes the current namespace a router.
func forwarding() error {
	return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
}

// linksUp waits until the kernel says that every link of the current namespace
// carries packets; it does so some time after they were set up.
func linksUp() error {
	return Wait(context.Background(), 10*time.Second, "links to come up", func() (bool, error) {
		all, err := netlink.LinkList()
		for _, dev := range all {
			state := dev.Attrs().OperState
			if dev.Attrs().Name != "lo" && state != netlink.OperUp {
				return false, fmt.Errorf("%s is %s", dev.Attrs().Name, state)
			}
		}
		return err == nil, err
	})
}

func loopbackUp() error {
	// No duplicate address detection: an IPv6 address is usable at once.
	for _, f := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + f + "/accept_dad"
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func (l *Lab) addLink(number int, k link) error {
	near := k.fromName
	if near == "" {
		near = "eth0"
	}
	far := fmt.Sprintf("port%d", number)
	fromNs, err := netns.GetFromName(l.namespace(k.from))
	if err != nil {
		return err
	}
	defer fromNs.Close()
	err = l.in(k.to, func() error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: far}, PeerName: near,
			PeerNamespace: netlink.NsFd(fromNs),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		return joinBridge(k.bridge, far, k.toAddresses)
	})
	if err != nil {
		return err
	}
	return l.in(k.from, func() error {
		if err := configure(near, k.fromAddresses); err != nil {
			return err
		}
		if k.gateway == "" {
			return nil
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(k.gateway)})
	})
}

// joinBridge adds a port to the bridge, which is made with the first one.
func joinBridge(bridge, port string, addresses []string) error {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		br = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
	}
	p, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(p, br); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(p); err != nil {
		return err
	}
	return configure(bridge, addresses)
}

func configure(name string, addresses []string) error {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(dev, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(dev)
}

// masquerade makes the current namespace a NAT router. Flows to `special` leave
// from the address `as`, all others from `usual`.
func masquerade(usual, special, as netip.Addr) error {
	if err := forwarding(); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
	ch := c.AddChain(&nftables.Chain{
		Name: "post", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	if special.IsValid() {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append([]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: special.AsSlice()},
		}, snat(as)...)})
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: snat(usual)})
	return c.Flush()
}

// snat is the rule `oifname "wan" snat to ADDR`.
func snat(to netip.Addr) []expr.Any {
	name := make([]byte, 16)
	copy(name, "wan")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(nftables.TableFamilyIPv4), RegAddrMin: 1},
	}
}

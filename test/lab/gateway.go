package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
)

// Addresses on the inner network, which lies behind the host:
//
//	internet ── host 10.20.0.1 fd20::1 ── inner 10.20.0.2, .9 fd20::2
var (
	InnerV4 = netip.MustParseAddr("10.20.0.2")
	InnerV6 = netip.MustParseAddr("fd20::2")
	// VaultV4 is in none of the networks that the host lets gateway services be in.
	VaultV4 = netip.MustParseAddr("10.20.0.9")
)

// innerPort is that of the inner machine's services: TCP and UDP echo.
const innerPort = 7010

// Gateway is a host that forwards to an inner network with a machine on it. Everybody
// on the internet knows the way there.
type Gateway struct {
	*Lab
	others  onlookers
	touched atomic.Bool // the vault was connected to
}

// NewGateway adds the machine to a standing lab and begins to probe it and the host,
// which nothing protects yet. Close ends the probing.
func NewGateway(_ context.Context, l *Lab) (*Gateway, error) {
	g := &Gateway{Lab: l}
	l.HostSettings += fmt.Sprintf("\n[gateway]\nnetworks = [\"%s/32\", \"%s/128\"]\n", InnerV4, InnerV6)
	if err := errors.Join(g.wire(), g.serve()); err != nil {
		return nil, fmt.Errorf("set up the inner network: %w", err)
	}
	var err error
	ports := []uint16{22, innerPort, tunnelPort}
	g.others, err = l.onlook(ports, HostV4, HostV6, InnerV4, InnerV6, VaultV4)
	return g, err
}

// Log is what the probing saw, phase by phase.
func (g *Gateway) Log() string { return g.others.Log() }

// Close ends the probing.
func (g *Gateway) Close() error { return g.others.Close() }

func (g *Gateway) wire() error {
	err := g.addMachine(150, link{from: "inner", to: "host", bridge: "inner0",
		fromAddresses: []string{"10.20.0.2/24", "10.20.0.9/24", "fd20::2/64"},
		toAddresses:   []string{"10.20.0.1/24", "fd20::1/64"}, gateway: "10.20.0.1"})
	if err != nil {
		return err
	}
	inner4, inner6 := netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("fd20::/64")
	return errors.Join(g.in("host", forwarding),
		g.route("inner", netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd20::1")),
		g.route("stranger", inner4, HostV4), g.route("stranger", inner6, HostV6), g.route("nat", inner4, HostV4))
}

// route tells a machine the way to a network.
func (l *Lab) route(machine string, to netip.Prefix, via netip.Addr) error {
	return l.in(machine, func() error {
		return netlink.RouteReplace(&netlink.Route{Gw: via.AsSlice(), Dst: &net.IPNet{
			IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen()),
		}})
	})
}

func (g *Gateway) serve() error {
	all := fmt.Sprintf("[::]:%d", innerPort)
	vault := netip.AddrPortFrom(VaultV4, innerPort+1).String()
	return errors.Join(g.Serve("inner", all, echo), g.ServePackets("inner", all),
		g.Serve("inner", vault, func(c net.Conn) { g.touched.Store(true); c.Close() }))
}

// Steps go from the open gateway to one that lets one client through to one machine;
// each leaves it as the next one needs it. All along, others probe.
func (g *Gateway) Steps() []Step {
	step := func(name string, run func(context.Context) (string, error)) Step {
		return Step{name, func(ctx context.Context, _ *Lab) (string, error) {
			evidence, err := run(ctx)
			seen, fault := g.others.sees(0)
			return evidence + "; " + seen, errors.Join(err, fault)
		}}
	}
	return []Step{
		step("without Postern, everybody reaches the machine behind the host", g.bare),
		step("protected, nobody does", g.protect),
		step("a TCP service on it through the tunnel, byte for byte", g.carriesTCP),
		step("a UDP service on it through the tunnel, byte for byte", g.carriesUDP),
		step("a revoked session is cut off from it", g.revoked),
		step("the host refuses what its networks do not name", g.refuses),
	}
}

func (g *Gateway) bare(context.Context) (string, error) {
	for _, way := range []struct {
		from string
		to   netip.Addr
	}{{"stranger", InnerV4}, {"stranger", InnerV6}, {"neighbour", InnerV4}} {
		conn, err := g.dialFrom(way.from, netip.AddrPortFrom(way.to, innerPort))
		if err != nil {
			return "", fmt.Errorf("from %s: %w", way.from, err)
		}
		if err := carries(conn, 64<<10); err != nil {
			return "", fmt.Errorf("from %s: %w", way.from, err)
		}
	}
	return "all reach it", nil
}

// dialFrom connects from a machine, with nothing of Postern's.
func (l *Lab) dialFrom(machine string, to netip.AddrPort) (conn net.Conn, err error) {
	err = l.in(machine, func() error {
		conn, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	})
	return conn, err
}

func (g *Gateway) protect(ctx context.Context) (string, error) {
	if err := g.StartSystem(ctx); err != nil {
		return "", err
	}
	g.others.dark("protected")
	for _, s := range []struct {
		name, target string
		more         []string
	}{
		{"echo", netip.AddrPortFrom(InnerV4, innerPort).String(), []string{"--mode", "gateway"}},
		{"echo-v6", netip.AddrPortFrom(InnerV6, innerPort).String(), []string{"--mode", "gateway"}},
		{"echo-udp", netip.AddrPortFrom(InnerV4, innerPort).String(), []string{"--mode", "gateway", "--udp"}},
		{"vault", netip.AddrPortFrom(VaultV4, innerPort+1).String(), []string{"--mode", "gateway"}},
		{"not-here", netip.AddrPortFrom(InnerV4, innerPort).String(), []string{"--mode", "tunnel"}},
	} {
		add := append([]string{"service", "add", "--host", "host1", "--target", s.target}, s.more...)
		for _, args := range [][]string{append(add, s.name), {"grant", "add", "--for", "1h", "alice", s.name}} {
			if _, err := g.Admin(ctx, args...); err != nil {
				return "", err
			}
		}
	}
	_, err := g.others.sees(300 * time.Millisecond)
	return "the same routes, no answer", err
}

func (g *Gateway) carriesTCP(ctx context.Context) (evidence string, err error) {
	const size = 8 << 20
	for _, service := range []string{"echo", "echo-v6"} {
		forward, err := g.Connect(ctx, "client", service)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, forward.Close()) }()
		conn, err := forward.Dial()
		if err != nil {
			return "", err
		}
		if err := carries(conn, size); err != nil {
			return "", fmt.Errorf("%s: %w", service, err)
		}
	}
	return fmt.Sprintf("%d bytes to it and back, over IPv4 and over IPv6 behind the host", size), nil
}

func (g *Gateway) carriesUDP(ctx context.Context) (evidence string, err error) {
	forward, err := g.Connect(ctx, "client", "echo-udp")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	conn, err := forward.DialPacket()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	sizes := []int{1, 512, 1200, 1472, 2000} // the last ones fit into no packet of the tunnel's
	for _, n := range sizes {
		datagram := bytes.Repeat([]byte{byte(n)}, n)
		err := Wait(ctx, 10*time.Second, fmt.Sprintf("the echo of %d bytes", n), func() (bool, error) {
			return Echoes(conn, datagram), nil
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("datagrams of %v bytes", sizes), nil
}

func (g *Gateway) revoked(ctx context.Context) (evidence string, err error) {
	forward, err := g.Connect(ctx, "client", "echo")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	conn, err := forward.Dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := answers(conn, 5*time.Second); err != nil {
		return "", fmt.Errorf("before the revocation: %w", err)
	}
	if err := g.endSessions(ctx); err != nil {
		return "", err
	}
	if err := answers(conn, time.Second); err == nil {
		return "", broken("the connection lives on")
	}
	return "the open connection ended", nil
}

// exitUnreachable is the client's exit code for a host that does not serve.
const exitUnreachable = 7

func (g *Gateway) refuses(ctx context.Context) (string, error) {
	var said []string
	for service, why := range map[string]string{
		"vault":    VaultV4.String() + " is in none of this host's [gateway] networks",
		"not-here": InnerV4.String() + " is another machine, which takes mode gateway",
	} {
		_, err := g.postern(ctx, "client", nil, "knock", service)
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != exitUnreachable || !strings.Contains(err.Error(), "the host refused the session") {
			return "", broken("%s: want exit code %d and that the host refused: %v", service, exitUnreachable, err)
		}
		if log := g.host.Log(); !strings.Contains(log, why) {
			return "", broken("the host's log does not say %q:\n%s", why, log)
		}
		said = append(said, why)
	}
	if g.touched.Load() {
		return "", broken("somebody was at the vault")
	}
	open, err := g.Pinholes(ctx)
	if err == nil && len(open) > 0 {
		err = broken("open for refused sessions: %v", open)
	}
	slices.Sort(said)
	return strings.Join(said, "; "), err
}

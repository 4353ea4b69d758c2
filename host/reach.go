package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/postern-sdp/postern/internal/control"
)

// reach says where the agent may connect to on a session's behalf. The controller
// names targets; that it cannot make a springboard of the host is the host's own
// decision.
type reach struct {
	// networks are where gateway services may be.
	networks []netip.Prefix
	// own lists the machine's addresses.
	own func() ([]net.Addr, error)
}

func newReach(networks []netip.Prefix) *reach {
	return &reach{networks: networks, own: net.InterfaceAddrs}
}

// check refuses an address literal that may not be reached in that mode. Names are
// judged when they are resolved.
func (r *reach) check(mode control.Mode, target string) error {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return fmt.Errorf("%w: target %q is not host:port", errOrder, target)
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	return r.allowed(mode, a)
}

// allowed returns nil when services of that mode may be at a.
func (r *reach) allowed(mode control.Mode, a netip.Addr) error {
	a = a.Unmap()
	switch mode {
	case control.ModeTunnel:
		if a.IsLoopback() {
			return nil
		}
		own, err := r.own()
		if err != nil {
			return fmt.Errorf("list own addresses: %w", err)
		}
		if slices.ContainsFunc(own, func(o net.Addr) bool {
			p, err := netip.ParsePrefix(o.String())
			return err == nil && p.Addr().Unmap().WithZone("") == a.WithZone("")
		}) {
			return nil
		}
		return fmt.Errorf("%w: %s is another machine, which takes mode gateway", errReach, a)
	case control.ModeGateway:
		if !a.IsLoopback() && slices.ContainsFunc(r.networks, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return nil
		}
		return fmt.Errorf("%w: %s is in none of this host's [gateway] networks", errReach, a)
	}
	return fmt.Errorf("%w: mode %q has no target to dial", errReach, mode)
}

// dial connects to a target over network, "tcp" or "udp". Each address that a name
// resolves to is judged, and those that may be reached are tried in turn.
func (r *reach) dial(ctx context.Context, network string, mode control.Mode, target string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("%w: target %q is not host:port", errOrder, target)
	}
	addresses := make([]netip.Addr, 1)
	if addresses[0], err = netip.ParseAddr(host); err != nil {
		if addresses, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, err
		}
	}
	var faults []error
	d := net.Dialer{Timeout: targetLimit}
	for _, a := range addresses {
		if err := r.allowed(mode, a); err != nil {
			faults = append(faults, err)
			continue
		}
		c, err := d.DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port))
		if err == nil {
			return c, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

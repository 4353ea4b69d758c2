package control

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
)

// found is what came of one look-up.
type found struct {
	addresses []netip.AddrPort
	err       error
}

// targets are where to knock, in turn. What needs no look-up is there from the start;
// names come as they resolve (RFC 8305, section 3), so that one that hangs is in
// nobody's way.
type targets struct {
	next    []netip.AddrPort // to be tried
	last    netip.AddrPort   // that was tried
	known   []netip.AddrPort // all so far
	results chan found
	pending int // look-ups under way
	faults  []error
}

// newTargets starts the look-ups, which end with ctx, in group. The preferred one comes
// first: when it is one of the addresses, or may be what a name stands for.
func (c *KnockConfig) newTargets(ctx context.Context, group *sync.WaitGroup) *targets {
	t := &targets{results: make(chan found, 2*len(c.Controller.Addresses))}
	var literal []netip.AddrPort
	for _, name := range c.Controller.Addresses {
		host, service, err := net.SplitHostPort(name)
		if err != nil {
			t.faults = append(t.faults, fmt.Errorf("controller's address: %w", err))
			continue
		}
		if a, ok := literalAddress(host, service); ok {
			literal = append(literal, a)
			continue
		}
		for _, network := range []string{"ip6", "ip4"} {
			t.pending++
			group.Go(func() { t.results <- c.lookUp(ctx, network, host, service) })
		}
	}
	if c.Prefer.IsValid() && (t.pending > 0 || slices.Contains(literal, c.Prefer)) {
		t.add([]netip.AddrPort{c.Prefer})
	}
	t.add(literal)
	return t
}

func literalAddress(host, service string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(host)
	port, portErr := strconv.ParseUint(service, 10, 16)
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), err == nil && portErr == nil
}

func (c *KnockConfig) lookUp(ctx context.Context, network, host, service string) found {
	port, err := c.Resolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return found{err: fmt.Errorf("controller's address: %w", err)}
	}
	all, err := c.Resolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return found{err: fmt.Errorf("resolve controller's address: %w", err)}
	}
	var f found
	for _, a := range all {
		f.addresses = append(f.addresses, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return f
}

// take takes in what a look-up came to.
func (t *targets) take(f found) {
	t.pending--
	if f.err != nil {
		t.faults = append(t.faults, f.err)
	}
	t.add(f.addresses)
}

// add queues those that are new.
func (t *targets) add(addresses []netip.AddrPort) {
	for _, a := range addresses {
		if !slices.Contains(t.known, a) {
			t.known, t.next = append(t.known, a), append(t.next, a)
		}
	}
}

// pop returns the next one. The families take turns.
func (t *targets) pop() netip.AddrPort {
	i := slices.IndexFunc(t.next, func(a netip.AddrPort) bool {
		return t.last.IsValid() && a.Addr().Is4() != t.last.Addr().Is4()
	})
	i = max(0, i)
	t.last = t.next[i]
	t.next = slices.Delete(t.next, i, i+1)
	return t.last
}

package up

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/names"
	"github.com/postern-sdp/postern/internal/control"
)

// Dialer is what services are reached with.
type Dialer interface {
	Dial(ctx context.Context, service string) (net.Conn, error)
	DialPacket(ctx context.Context, service string) (net.Conn, error)
}

// higher is added to a port that only the administrator may listen on.
const higher = 10000

// Local is one service on this machine.
type Local struct {
	Service   string            `json:"service"`
	Name      string            `json:"name"` // full
	Address   netip.AddrPort    `json:"address"`
	Transport control.Transport `json:"transport"`
	Host      string            `json:"host"`
	Online    bool              `json:"online"`
	Error     string            `json:"error,omitempty"` // why nobody listens there
}

// Set is the services that are up. Its methods may be called one at a time.
type Set struct {
	dialer Dialer
	failed func(service string, err error)

	life  context.Context
	end   context.CancelFunc
	group sync.WaitGroup
	open  map[string]*port
}

// port is one service's listener.
type port struct {
	service client.Service
	address netip.AddrPort // as planned
	local   Local
	stop    context.CancelFunc
	done    chan struct{}
}

// New returns a Set without services. failed is told, possibly concurrently, of
// connections that could not be made.
func New(d Dialer, failed func(service string, err error)) *Set {
	s := &Set{dialer: d, failed: failed, open: make(map[string]*port)}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Apply has exactly these services up: new ones listen, others stop, and what has not
// changed goes on without a break. A service that cannot listen does not hinder the
// others: its Local says why.
func (s *Set) Apply(services []client.Service) []Local {
	wanted := make(map[string]client.Service, len(services))
	var all []string
	for _, x := range services {
		wanted[x.Name] = x
		all = append(all, x.Name)
	}
	planned := names.Places(all)
	for name, p := range s.open {
		x, still := wanted[name]
		if still && p.same(x, planned[name]) && p.serves() {
			p.local.Online, p.local.Host = x.Online, x.Host
			continue
		}
		p.close()
		delete(s.open, name)
	}
	var locals []Local
	for _, x := range services {
		p := s.open[x.Name]
		if p == nil {
			p = s.listen(x, planned[x.Name])
			s.open[x.Name] = p
		}
		locals = append(locals, p.local)
	}
	slices.SortFunc(locals, func(a, b Local) int { return cmp.Compare(a.Service, b.Service) })
	return locals
}

func (p *port) same(x client.Service, planned netip.AddrPort) bool {
	a, b := p.service.Access.Resolved(), x.Access.Resolved()
	return p.address == planned && a.Transport == b.Transport && p.service.Port == x.Port
}

// serves reports whether somebody listens still.
func (p *port) serves() bool {
	select {
	case <-p.done:
		return false
	default:
		return p.local.Error == ""
	}
}

func (p *port) close() {
	p.stop()
	<-p.done
}

// listen opens a service's local port and carries what comes there.
func (s *Set) listen(x client.Service, planned netip.AddrPort) *port {
	access := x.Access.Resolved()
	p := &port{service: x, address: planned, done: make(chan struct{})}
	p.local = Local{
		Service: x.Name, Name: x.Name + "." + client.Domain, Transport: access.Transport, Host: x.Host, Online: x.Online,
	}
	ctx, stop := context.WithCancel(s.life)
	p.stop = stop
	at := planned
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), x.Port)
	}
	run, bound, err := s.bind(ctx, x.Name, access.Transport, at)
	if errors.Is(err, syscall.EACCES) && at.Port() < 1024 {
		at = netip.AddrPortFrom(at.Addr(), at.Port()+higher)
		run, bound, err = s.bind(ctx, x.Name, access.Transport, at)
	}
	if err != nil {
		p.local.Address, p.local.Error = at, err.Error()
		close(p.done)
		return p
	}
	p.local.Address = bound
	s.group.Go(func() {
		defer close(p.done)
		if err := run(); err != nil {
			s.failed(x.Name, err)
		}
	})
	return p
}

func (s *Set) bind(ctx context.Context, service string, t control.Transport, at netip.AddrPort) (
	run func() error, bound netip.AddrPort, err error) {
	failed := func(err error) { s.failed(service, err) }
	if t == control.TransportUDP {
		l, err := client.ListenPacket(ctx, at.String(), false)
		if err != nil {
			return nil, at, err
		}
		dial := func(ctx context.Context) (net.Conn, error) { return s.dialer.DialPacket(ctx, service) }
		return func() error { return client.ForwardPackets(ctx, l, dial, failed) },
			l.LocalAddr().(*net.UDPAddr).AddrPort(), nil
	}
	l, err := client.Listen(ctx, at.String(), false)
	if err != nil {
		return nil, at, err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return s.dialer.Dial(ctx, service) }
	return func() error { return client.Forward(ctx, l, dial, failed) }, l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// Close stops all and waits for the end of what was carried.
func (s *Set) Close() error {
	s.end()
	s.group.Wait()
	return nil
}

// Follow calls apply with the services now and whenever they may have changed: from
// time to time, and when again is signalled. While the controller is silent, it asks
// again soon; known is what to begin with then. It returns when ctx ends.
func Follow(ctx context.Context, ask func(context.Context) (client.Services, error), known client.Services,
	again <-chan struct{}, apply func([]client.Service, error)) {
	first := true
	for retry := shortest; ctx.Err() == nil; {
		found, err := ask(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := often
		switch {
		case err == nil:
			apply(found.Services, nil)
			retry = shortest
		default:
			if first {
				apply(known.Services, err)
			}
			wait, retry = retry, min(2*retry, often)
		}
		first = first && err != nil && len(known.Services) == 0
		select {
		case <-ctx.Done():
		case <-again:
		case <-time.After(wait):
		}
	}
}

const (
	// often is how often the controller is asked what there is.
	often = 2 * time.Minute
	// shortest is the first wait for a controller that is silent.
	shortest = 2 * time.Second
)

// Describe is where people find a service, for tables.
func (l Local) Describe() string {
	if l.Error != "" {
		return l.Error
	}
	return fmt.Sprintf("%s/%d", l.Transport, l.Address.Port())
}

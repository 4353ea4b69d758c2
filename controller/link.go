package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	maxOrders    = 2 * maxHostSessions // queued for one host
	orderTimeout = 2 * time.Second     // from the order to its acknowledgement
	helloTimeout = 10 * time.Second
	pingInterval = 15 * time.Second
	pingTimeout  = 5 * time.Second
	maxAdvertise = 2 // addresses that fit into a grant
)

// link is one host's live stream of orders.
type link struct {
	host   key.ID
	source netip.AddrPort // where the stream comes from
	hello  control.Hello  // without sessions
	since  time.Time
	cancel context.CancelCauseFunc
	done   <-chan struct{}
	// orders is filled under the lock of [sessions] only, so that it holds the
	// changes of a session in their order.
	orders chan control.ToHost

	mu      sync.Mutex // guards what follows
	last    uint64     // number of the newest order
	waiting map[uint64]chan error
	settles map[uint64][]key.ID // ends that the acknowledgement of an order settles
}

func newLink(ctx context.Context, host key.ID, source netip.AddrPort,
	hello control.Hello) (*link, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	hello.Sessions = nil
	return &link{
		host: host, source: source, hello: hello, since: time.Now(),
		cancel: cancel, done: ctx.Done(),
		orders: make(chan control.ToHost, maxOrders), waiting: make(map[uint64]chan error),
		settles: make(map[uint64][]key.ID),
	}, ctx
}

// addresses are those that a client may dial for the host's tunnel end.
func (l *link) addresses() []netip.AddrPort {
	if len(l.hello.Advertise) > 0 {
		return l.hello.Advertise
	}
	return []netip.AddrPort{netip.AddrPortFrom(l.source.Addr().Unmap(), l.hello.Port)}
}

// ticket stands for one order whose acknowledgement is awaited.
type ticket struct {
	link   *link
	number uint64
	answer <-chan error
}

// send queues an order without ever blocking. A host that lets its queue fill up
// loses its stream; the next one starts with a whole Sync. Its acknowledgement says
// that these ends are on the host's disk.
func (l *link) send(order control.ToHost, settles ...key.ID) (ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	order.Number = l.last
	select {
	case l.orders <- order:
	default:
		l.cancel(errSlow)
		return ticket{}, errSlow
	}
	answer := make(chan error, 1)
	l.waiting[order.Number] = answer
	if len(settles) > 0 {
		l.settles[order.Number] = settles
	}
	return ticket{link: l, number: order.Number, answer: answer}, nil
}

// wait returns nil once the host has acknowledged the order, and forgets it.
func (t ticket) wait(ctx context.Context, limit time.Duration) error {
	defer t.link.forget(t.number)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-t.answer:
		return err
	case <-timer.C:
		return errHostSilent
	case <-t.link.done:
		return errOffline
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// forget gives up waiting. It does nothing to a zero ticket.
func (t ticket) forget() {
	if t.link != nil {
		t.link.forget(t.number)
	}
}

func (l *link) forget(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, number)
}

// post sends an order whose acknowledgement nobody waits for.
func (l *link) post(order control.ToHost) {
	if t, err := l.send(order); err == nil {
		t.forget()
	}
}

// acknowledged passes an answer on to who waits for it, and returns the ends that it
// settles.
func (l *link) acknowledged(a control.Ack) (settles []key.ID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Number == 0 || a.Number > l.last {
		return nil, fmt.Errorf("the host acknowledged order %d of %d", a.Number, l.last)
	}
	var refusal error
	if a.Error != "" {
		refusal = fmt.Errorf("%w: %s", errHostRefused, printable(a.Error))
	} else {
		settles = l.settles[a.Number]
		delete(l.settles, a.Number)
	}
	if answer, ok := l.waiting[a.Number]; ok { // else nobody waits any more
		delete(l.waiting, a.Number)
		answer <- refusal
	}
	return settles, nil
}

// serveLink runs the stream of a host until it breaks, is replaced or ctx ends.
func (c *Controller) serveLink(ctx context.Context, caller api.Caller, stream api.AgentStream) error {
	hello, err := readHello(ctx, stream)
	if err != nil {
		return err
	}
	l, ctx := newLink(ctx, caller.ID, caller.Source, hello)
	defer l.cancel(nil)
	log := c.log.With(logkeys.Host, caller.ID, logkeys.Name, caller.Name)
	c.sessions.attach(l, hello.Sessions)
	defer c.sessions.detach(l)
	log.Info("host connected", logkeys.Source, caller.Source, logkeys.Version, hello.Version)
	err = l.run(ctx, stream, heard{
		settled:   func(ids []key.ID) { c.sessions.settled(l.host, ids) },
		ended:     func(e control.Ended) { c.sessions.endedByHost(l.host, e) },
		emergency: func(r control.EmergencyReport) { c.told(l, caller.Name, r) },
	})
	log.Info("host disconnected", logkeys.Error, err)
	return err
}

// readHello reads the first message, within its time.
func readHello(ctx context.Context, stream api.AgentStream) (control.Hello, error) {
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()
	timer := time.AfterFunc(helloTimeout, stream.Close)
	defer timer.Stop()
	m, err := stream.Recv()
	if err != nil {
		return control.Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if m.Hello == nil {
		return control.Hello{}, errors.New("the stream does not start with a hello")
	}
	h := *m.Hello
	h.Version = printable(h.Version)
	if h.Port == 0 {
		return control.Hello{}, errors.New("the hello has no port")
	}
	if len(h.Advertise) > maxAdvertise {
		return control.Hello{}, fmt.Errorf("the hello advertises %d addresses, at most %d fit into a grant",
			len(h.Advertise), maxAdvertise)
	}
	for i, a := range h.Advertise {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return control.Hello{}, fmt.Errorf("the hello advertises %s, which nobody can dial", a)
		}
		h.Advertise[i] = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	}
	return h, nil
}

// heard is what becomes of a host's messages.
type heard struct {
	settled   func([]key.ID)
	ended     func(control.Ended)
	emergency func(control.EmergencyReport)
}

// run reads, writes and pings until one of them fails.
func (l *link) run(ctx context.Context, stream api.AgentStream, to heard) error {
	outer := ctx
	g, ctx := errgroup.WithContext(outer)
	stop := context.AfterFunc(ctx, stream.Close) // wakes the reader and the writer
	defer stop()
	g.Go(func() error { return l.write(ctx, stream) })
	g.Go(func() error { return l.read(stream, to) })
	g.Go(func() error { return l.ping(ctx) })
	err := g.Wait()
	if cause := context.Cause(outer); cause != nil {
		return cause // what the others said follows from it
	}
	return err
}

func (l *link) write(ctx context.Context, stream api.AgentStream) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case order := <-l.orders:
			if err := stream.Send(timed(order, time.Now())); err != nil {
				return fmt.Errorf("send order: %w", err)
			}
		}
	}
}

// timed fills in the time, and the time left: hosts count it from when they read it.
func timed(order control.ToHost, now time.Time) control.ToHost {
	left := func(s control.Session) control.Session {
		s.TTL = control.Duration(max(0, s.Deadline.Sub(now)))
		return s
	}
	switch {
	case order.Open != nil:
		s := left(*order.Open)
		order.Open = &s
	case order.Ping != nil:
		order.Ping = &control.Ping{Now: now}
	case order.Sync != nil:
		sync := control.Sync{Now: now, Sessions: make([]control.Session, 0, len(order.Sync.Sessions))}
		for _, s := range order.Sync.Sessions {
			sync.Sessions = append(sync.Sessions, left(s))
		}
		order.Sync = &sync
	}
	return order
}

func (l *link) read(stream api.AgentStream, to heard) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("read from host: %w", err)
		}
		switch {
		case m.Ack != nil:
			settles, err := l.acknowledged(*m.Ack)
			if err != nil {
				return err
			}
			if len(settles) > 0 {
				to.settled(settles)
			}
		case m.Ended != nil:
			to.ended(*m.Ended)
		case m.Emergency != nil:
			to.emergency(*m.Emergency)
		default:
			return errors.New("the host sent neither an acknowledgement, nor an end, nor an emergency")
		}
	}
}

// ping ends the stream of a host that is connected but does not act.
func (l *link) ping(ctx context.Context) error {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		t, err := l.send(control.ToHost{Ping: &control.Ping{}})
		if err != nil {
			return err
		}
		if err := t.wait(ctx, pingTimeout); err != nil {
			return fmt.Errorf("ping host: %w", err)
		}
	}
}

// printable bounds a peer's text and leaves nothing in it that a terminal obeys.
func printable(text string) string {
	const limit = 120
	out := make([]rune, 0, min(len(text), limit))
	for _, r := range text {
		if len(out) == limit {
			break
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}

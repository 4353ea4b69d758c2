package client

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultIdle is how long a session that nobody uses is kept.
const DefaultIdle = 5 * time.Minute

// dialLimit bounds the getting of a session and of its tunnel, whoever waits.
const dialLimit = 20 * time.Second

// DialerConfig is how a Dialer works. The zero value will do.
type DialerConfig struct {
	For  time.Duration // asked for of each session; 0 leaves it to policy
	Idle time.Duration // until a session that nobody uses is ended; 0: DefaultIdle
	// Notify is told what happens to the session of a service, nil for nobody. It
	// must neither block nor call back.
	Notify func(service string, e Event)
}

// Dialer reaches services by their names. The first connection to a service gets
// a session and a tunnel, which all later ones share, each with a stream of its
// own; when they have been idle for a while, both are ended. It is safe for
// concurrent use.
type Dialer struct {
	client *Client
	DialerConfig

	life  context.Context // of everything that goes on in here
	end   context.CancelCauseFunc
	group sync.WaitGroup

	mu       sync.Mutex // guards what follows and what hangs off it
	accesses map[string]*shared
	holds    map[string]*hold // of services that a session could not be had of
}

// shared is the access to one service, with its users.
type shared struct {
	ready  chan struct{} // closed when access or err is there
	access *Access
	err    error
	users  int         // who waits for it or has a connection
	idle   *time.Timer // runs while there are none; nil before the first time
}

// Dialer returns a Dialer, which must be closed.
func (c *Client) Dialer(config DialerConfig) *Dialer {
	d := &Dialer{client: c, DialerConfig: config, accesses: make(map[string]*shared), holds: make(map[string]*hold)}
	if d.Idle <= 0 {
		d.Idle = DefaultIdle
	}
	if d.Notify == nil {
		d.Notify = func(string, Event) {}
	}
	d.life, d.end = context.WithCancelCause(context.Background())
	return d
}

// Dial opens a connection to a TCP service. Its CloseWrite ends one direction.
func (d *Dialer) Dial(ctx context.Context, service string) (net.Conn, error) {
	return d.dial(ctx, service, (*Access).Dial)
}

// DialPacket opens a flow to a UDP service: each Read and Write is one datagram.
func (d *Dialer) DialPacket(ctx context.Context, service string) (net.Conn, error) {
	return d.dial(ctx, service, (*Access).DialPacket)
}

func (d *Dialer) dial(ctx context.Context, service string,
	open func(*Access, context.Context) (net.Conn, error)) (net.Conn, error) {
	for try := 1; ; try++ {
		s, access, err := d.take(ctx, service)
		if err != nil {
			return nil, err
		}
		conn, err := open(access, ctx)
		if err == nil {
			conn.(interface{ also(func()) }).also(func() { d.release(service, s) })
			return conn, nil
		}
		over := access.Err() != nil
		if over {
			d.forget(service, s)
		}
		d.release(service, s)
		// A session that was over before this call is no answer to it: it may have
		// ended while nobody looked.
		if !over || try > 1 || ctx.Err() != nil || errors.Is(err, ErrRevoked) {
			return nil, err
		}
	}
}

// take returns the access to a service, which is the caller's until release.
func (d *Dialer) take(ctx context.Context, service string) (*shared, *Access, error) {
	d.mu.Lock()
	if err := context.Cause(d.life); err != nil {
		d.mu.Unlock()
		return nil, nil, err
	}
	s := d.accesses[service]
	if s != nil && s.access != nil && s.access.Err() != nil {
		d.forgetLocked(service, s)
		s = nil
	}
	if h := d.holds[service]; s == nil && h != nil {
		if err := h.check(); err != nil {
			d.mu.Unlock()
			return nil, nil, err
		}
	}
	if s == nil {
		s = &shared{ready: make(chan struct{})}
		d.accesses[service] = s
		d.group.Go(func() { d.begin(service, s) })
	}
	s.users++
	if s.idle != nil {
		s.idle.Stop()
	}
	d.mu.Unlock()
	select {
	case <-s.ready:
	case <-ctx.Done():
		d.release(service, s)
		return nil, nil, context.Cause(ctx)
	}
	if s.err != nil {
		d.release(service, s)
		return nil, nil, s.err
	}
	return s, s.access, nil
}

// begin gets the session. It belongs to all who wait for it, so none of their
// contexts ends it.
func (d *Dialer) begin(service string, s *shared) {
	ctx, cancel := context.WithTimeoutCause(d.life, dialLimit, ErrNoAnswer)
	defer cancel()
	access, err := d.client.Access(ctx, AccessConfig{
		Service: service, For: d.For, Notify: func(e Event) { d.Notify(service, e) },
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	s.access, s.err = access, err
	if err != nil {
		d.forgetLocked(service, s)
		d.holdLocked(service, err)
	} else {
		delete(d.holds, service)
	}
	close(s.ready)
}

// holdLocked keeps why there is no session for those who ask soon.
func (d *Dialer) holdLocked(service string, err error) {
	maps.DeleteFunc(d.holds, func(_ string, h *hold) bool { return h.over() })
	if d.holds[service] == nil {
		d.holds[service] = new(hold)
	}
	d.holds[service].note(err)
}

// release gives an access back. When it was the last user's, its time begins to run.
func (d *Dialer) release(service string, s *shared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if s.idle == nil {
		s.idle = time.AfterFunc(d.Idle, func() { d.retire(service, s) })
		return
	}
	s.idle.Reset(d.Idle)
}

// retire ends a session that nobody uses.
func (d *Dialer) retire(service string, s *shared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.users == 0 {
		d.forgetLocked(service, s)
	}
}

func (d *Dialer) forget(service string, s *shared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgetLocked(service, s)
}

// forgetLocked ends an access, and the next call for its service makes a new one.
func (d *Dialer) forgetLocked(service string, s *shared) {
	if d.accesses[service] != s {
		return
	}
	delete(d.accesses, service)
	if s.access != nil && d.life.Err() == nil {
		d.group.Go(func() { s.access.Close() })
	}
}

// Sessions returns what is open now, in the order of the services' names.
func (d *Dialer) Sessions() []AccessInfo {
	d.mu.Lock()
	var all []AccessInfo
	for _, s := range d.accesses {
		if s.access != nil {
			all = append(all, s.access.Info())
		}
	}
	d.mu.Unlock()
	slices.SortFunc(all, func(a, b AccessInfo) int { return strings.Compare(a.Service, b.Service) })
	return all
}

// Close ends all sessions with their connections and waits for their end. It may
// be called many times.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.end(ErrClosed)
	all := d.accesses
	d.accesses = make(map[string]*shared)
	for _, s := range all {
		if s.idle != nil {
			s.idle.Stop()
		}
	}
	d.mu.Unlock()
	var closing sync.WaitGroup
	for _, s := range all {
		closing.Go(func() {
			<-s.ready
			if s.access != nil {
				s.access.Close()
			}
		})
	}
	closing.Wait()
	d.group.Wait()
	return nil
}

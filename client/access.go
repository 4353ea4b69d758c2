package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// AccessConfig is what is wanted of a service.
type AccessConfig struct {
	Service string
	For     time.Duration // asked for; 0 leaves it to policy
	// NoRenew lets the session end at its first deadline, and the Access with it.
	NoRenew bool
	// Notify is told what happens meanwhile, nil for nobody. It must neither block
	// nor call back.
	Notify func(Event)
}

// Event is one thing that happened to an Access.
type Event struct {
	Kind     EventKind
	Deadline time.Time // of the session, on this machine's clock
	Err      error     // why, of those that are no good news
}

// EventKind says what happened.
type EventKind uint8

// The kinds of events.
const (
	EventGranted    EventKind = 1 // a new session
	EventRenewed    EventKind = 2 // the session's deadline moved
	EventNotRenewed EventKind = 3 // it will not, as far as can be seen; after [Event.Deadline] it is over
	EventLost       EventKind = 4 // the tunnel broke
	EventRefused    EventKind = 5 // one connection could not be made
)

// Access is access to one service: a session with its tunnel. It comes back after
// a break and renews the session while it is in use. It is safe for concurrent use.
//
//	       Dial, use                     2/3 of the time passed
//	idle ────────────> connected ──────────────────────────────> renewed, or
//	  ^                    │ host restarts, path breaks, deadline    not renewed
//	  └────────────────────┘
//	revoked, or the deadline came with NoRenew: over, for good
type Access struct {
	client *Client
	AccessConfig

	life   context.Context // of everything that goes on in here
	end    context.CancelCauseFunc
	group  sync.WaitGroup
	turn   chan struct{} // holds one token: who has it may knock and dial
	signal chan struct{} // wakes the renewer; holds at most one
	close  sync.Once
	flows  flows // of a UDP service
	hold   hold  // what came of the last knock, if nothing

	// mu guards what follows.
	mu struct {
		sync.Mutex
		granted Granted
		renewAt time.Duration // when to renew, on the boot clock; 0 for never
		told    bool          // that it will not be renewed
		conn    *tunnel.Conn
		inUse   int  // open streams
		works   bool // a direct service was reached since the last knock, as far as is known
		alone   bool // the one connection of a direct service with binding exact is there
	}
}

// Access asks for a session and connects to the service's host. ctx bounds that
// only; the Access lasts until Close, which must be called.
func (c *Client) Access(ctx context.Context, config AccessConfig) (*Access, error) {
	a := &Access{
		client: c, AccessConfig: config,
		turn: make(chan struct{}, 1), signal: make(chan struct{}, 1),
	}
	if a.Notify == nil {
		a.Notify = func(Event) {}
	}
	a.turn <- struct{}{}
	a.life, a.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if _, err := a.connect(ctx); err != nil {
		a.Close()
		return nil, err
	}
	a.group.Go(a.keepRenewed)
	return a, nil
}

// Granted returns the current session.
func (a *Access) Granted() Granted {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.granted.onClock()
}

// Done is closed when the Access is over for good; Err says why.
func (a *Access) Done() <-chan struct{} { return a.life.Done() }

// Err returns why the Access is over, nil while it is not: [ErrRevoked],
// [ErrExpired] or [ErrClosed].
func (a *Access) Err() error { return context.Cause(a.life) }

// Close ends all connections and the session. It may be called many times.
func (a *Access) Close() error {
	a.close.Do(func() {
		over := a.Err()
		a.end(ErrClosed)
		<-a.turn // for good: nobody begins anything any more
		a.mu.Lock()
		conn, granted := a.mu.conn, a.mu.granted
		a.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
		a.group.Wait()
		if over == nil && !granted.Session.IsZero() && granted.left() > 0 {
			ctx := context.WithoutCancel(a.life)
			a.client.endSession(ctx, granted.Session)
		}
	})
	return nil
}

// Dial opens a connection to the service. When the tunnel is gone, it knocks and
// connects anew. The connection's CloseWrite ends one direction.
func (a *Access) Dial(ctx context.Context) (net.Conn, error) {
	stream, release, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{stream: stream, release: release}, nil
}

// open opens a stream. The caller calls release when it is over. A tunnel that
// turns out to be dead, or a host that lost its sessions, is worth one new try.
func (a *Access) open(ctx context.Context) (stream, func(), error) {
	for try := 1; ; try++ {
		conn, err := a.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		if g := a.Granted(); g.Access().Transport != control.TransportTCP {
			return nil, nil, fmt.Errorf("%w: %s speaks UDP", ErrNotTCP, a.Service)
		}
		if conn == nil {
			return a.openDirect(ctx)
		}
		a.use(1)
		stream, err := conn.OpenStream(ctx)
		if err == nil {
			return stream, func() { a.use(-1) }, nil
		}
		a.use(-1)
		if over := a.over(err); over != nil {
			return nil, nil, over
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if try == 2 || errors.Is(err, tunnel.ErrUnreachable) || errors.Is(err, tunnel.ErrBusy) {
			return nil, nil, err
		}
		a.drop(conn, err)
	}
}

// over returns why the Access is over for good. An administrator who took the
// session back is not to be met with the next knock.
func (a *Access) over(err error) error {
	if errors.Is(err, tunnel.ErrRevoked) || a.NoRenew && errors.Is(err, tunnel.ErrExpired) {
		a.end(err)
	}
	return a.Err()
}

func (a *Access) use(n int) {
	a.mu.Lock()
	a.mu.inUse += n
	a.mu.Unlock()
	a.wake()
}

func (a *Access) wake() {
	select {
	case a.signal <- struct{}{}:
	default:
	}
}

// drop forgets a tunnel that is of no use any more.
func (a *Access) drop(conn *tunnel.Conn, err error) {
	a.mu.Lock()
	known := a.mu.conn == conn
	if known {
		a.mu.conn = nil
	}
	deadline := a.mu.granted.onClock().Deadline
	a.mu.Unlock()
	conn.Close()
	if known && a.Err() == nil {
		a.Notify(Event{Kind: EventLost, Deadline: deadline, Err: err})
	}
}

// take waits for the right to knock and dial.
func (a *Access) take(ctx context.Context) error {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.life.Done():
		return a.Err()
	}
	if err := a.Err(); err != nil {
		a.turn <- struct{}{}
		return err
	}
	return nil
}

// connect returns the tunnel, a new one when there is none that lives. A service
// that is reached directly has none; its session is there then.
func (a *Access) connect(ctx context.Context) (*tunnel.Conn, error) {
	if conn, ok := a.connected(); ok { // whoever knocks meanwhile
		return conn, nil
	}
	if err := a.take(ctx); err != nil {
		return nil, err
	}
	defer func() { a.turn <- struct{}{} }()
	if conn, ok := a.connected(); ok {
		return conn, nil
	}
	if err := a.hold.check(); err != nil {
		return nil, err
	}
	conn, err := a.reconnect(ctx)
	if ctx.Err() == nil {
		a.hold.note(err)
	}
	return conn, err
}

// reconnect knocks, and returns a new tunnel if one is needed.
func (a *Access) reconnect(ctx context.Context) (*tunnel.Conn, error) {
	// What Close ends is ended here too.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(a.life, func() { cancel(a.Err()) })
	defer stop()
	if err := a.refresh(ctx); err != nil {
		return nil, err
	}
	conn, err := a.comeBack(ctx)
	if conn == nil || err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.mu.conn = conn
	a.mu.Unlock()
	a.group.Go(func() { a.watch(conn) })
	return conn, nil
}

// connected returns the tunnel, and whether there is one that lives, or none is needed.
func (a *Access) connected() (*tunnel.Conn, bool) {
	a.mu.Lock()
	conn, g, works := a.mu.conn, a.mu.granted, a.mu.works
	a.mu.Unlock()
	if a.Err() != nil {
		return nil, false
	}
	if conn != nil {
		return conn, conn.Err() == nil
	}
	return nil, works && g.direct() && g.left() > time.Second
}

// refresh renews the device's certificate when that is due, but waits for it only when
// there is no other way: the control port may be blocked where the host's is not.
func (a *Access) refresh(ctx context.Context) error {
	c := a.client
	now := c.now()
	if !c.identity.RenewDue(now) {
		return nil
	}
	if now.Add(tunnel.DefaultDialTimeout).After(c.identity.Leaf().NotAfter) {
		return c.refresh(ctx)
	}
	if c.renewing.CompareAndSwap(false, true) {
		a.group.Go(func() {
			defer c.renewing.Store(false)
			_ = c.refresh(a.life) // a third of its life is there for other tries
		})
	}
	return nil
}

// admission sees to it that there is a session that a tunnel can be dialled for:
// a new one, or the old one with a pinhole for where we are now.
func (a *Access) admission(ctx context.Context) error {
	old := a.Granted()
	valid := old.live()
	if a.NoRenew && !old.Session.IsZero() {
		if !valid {
			a.end(ErrExpired)
			return ErrExpired
		}
		return nil // the host knock alone will do
	}
	session := key.ID{}
	if valid {
		session = old.Session
	}
	granted, err := a.ask(ctx, session)
	denied, ok := errors.AsType[*DeniedError](err)
	if ok && valid && denied.Code == spa.CodeUnknownSession {
		granted, err = a.ask(ctx, key.ID{})
	}
	if errors.Is(err, ErrNoAnswer) && valid && ctx.Err() == nil {
		return nil // a controller that is down ends no live session
	}
	if err != nil {
		return err
	}
	a.granted(granted)
	a.Notify(Event{Kind: EventGranted, Deadline: granted.Deadline})
	return nil
}

func (a *Access) ask(ctx context.Context, session key.ID) (Granted, error) {
	return a.client.knock(ctx, a.Service, session, a.For, surplus{a.life, &a.group})
}

// granted takes over what the controller granted.
func (a *Access) granted(g Granted) {
	a.mu.Lock()
	a.mu.granted = g
	a.mu.renewAt, a.mu.told = 0, false
	if !a.NoRenew {
		a.mu.renewAt = bootclock.Now() + g.left()*2/3
	}
	a.mu.Unlock()
	a.wake()
}

func (a *Access) dialConfig() tunnel.DialConfig {
	g := a.Granted()
	return tunnel.DialConfig{
		Addresses: g.addresses(), Host: g.Host, Pin: g.grant.Pin, Session: g.Session,
		Knock: func() []byte {
			return spa.SealHostKnock(g.grant.Knock, g.Host, g.Session, a.client.hostKnockTime())
		},
		Certificate: *a.client.identity.TLSCertificate(), Roots: a.client.identity.Roots(),
		Now: a.client.now,
	}
}

// watch waits for the end of a tunnel, or of its session: a host whose word of it was
// not heard, because this machine slept, will not say it again.
func (a *Access) watch(conn *tunnel.Conn) {
	leave := a.client.network.Subscribe(conn.Knock)
	defer leave()
	tick := time.NewTicker(watchBeat)
	defer tick.Stop()
	for {
		select {
		case <-conn.Done():
			err := fmt.Errorf("tunnel to the host: %w", conn.Err())
			a.over(err)
			a.drop(conn, err)
			return
		case <-a.life.Done():
			conn.Close()
			return
		case <-tick.C:
		}
		if a.Granted().left() < -expiryGrace {
			err := fmt.Errorf("tunnel to the host: %w", ErrExpired)
			a.over(err)
			a.drop(conn, err)
			return
		}
	}
}

const (
	// watchBeat is how often a tunnel's session is compared with the boot clock.
	watchBeat = 5 * time.Second
	// expiryGrace is for how long the host may be the one to say that the deadline has come.
	expiryGrace = 2 * time.Second
)

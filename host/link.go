package host

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
)

const (
	dialLimit  = 15 * time.Second // knock, host knock and handshake
	maxClosing = 1024             // close orders whose state is not on the disk yet
)

// link keeps the agent connected to its controller:
//
//	down ──knock, QUIC, Hello──> joined ──Sync──> up ──stream breaks──> down
//	  ^                             │                                     │
//	  └────────── pause ────────────┴─────────────────────────────────────┘
//
// Whatever its state, the sessions go on: only a Sync says which ones are over.
type link struct {
	identity  *control.Enrolled
	sessions  *sessions
	knocks    *knocks
	state     *writer
	version   string
	port      uint16
	advertise []netip.AddrPort
	started   time.Time
	// onUp is called when the controller has told which sessions there are, onTold
	// with its acknowledgements of emergency records.
	onUp   func()
	onTold func(ctx context.Context, sequence uint64)
	log    *slog.Logger

	mu     sync.Mutex // guards what follows
	out    *outbox    // of the present stream, nil without
	status LinkStatus
}

// tell sends what the controller has not asked for. Without a stream it is
// dropped: the next Hello and Sync tell the same.
func (l *link) tell(m control.FromHost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		l.out.put(m)
	}
}

// run connects again and again until ctx ends.
func (l *link) run(ctx context.Context) error {
	pauses := newBackoff()
	for {
		lasted, err := l.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause := pauses.pause(lasted)
		l.log.Warn("not connected to the controller", logkeys.Error, err, logkeys.Duration, pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// connect is one life of the link. It returns how long the stream was up.
func (l *link) connect(ctx context.Context) (time.Duration, error) {
	client, err := l.dial(ctx)
	if err != nil {
		l.down(err)
		return 0, err
	}
	defer client.Close()
	if renewed, err := l.renewExpired(ctx, client); err != nil {
		l.down(err)
		return 0, err
	} else if renewed {
		l.down(errRenewed)
		return settled, errRenewed
	}
	up := time.Now()
	err = l.serve(ctx, client)
	l.down(err)
	return time.Since(up), err
}

func (l *link) dial(ctx context.Context) (*control.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return l.identity.Dial(ctx)
}

func (l *link) current() LinkStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// alone returns for how long there has been no controller, counted by Go's
// monotonic clock from the agent's start at most; ok is false when there is one.
func (l *link) alone() (alone time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Connected {
		return 0, false
	}
	if l.status.Since.IsZero() {
		return time.Since(l.started), true
	}
	return time.Since(l.status.Since), true
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = LinkStatus{Connected: true, Since: time.Now(), Connects: l.status.Connects + 1}
	l.log.Info("connected to the controller")
}

func (l *link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Connected || l.status.Since.IsZero() {
		l.status.Since = time.Now()
	}
	l.status.Connected = false
	if err != nil {
		l.status.Error = err.Error()
	}
}

// stream is one agent stream.
type stream struct {
	*link
	wire    *control.AgentStream
	out     *outbox
	closing chan uint64 // numbers of orders to acknowledge once the state is written
	synced  bool
}

// serve runs the agent stream until it breaks.
func (l *link) serve(ctx context.Context, client *control.Client) error {
	wire, err := client.Agent(ctx)
	if err != nil {
		return err
	}
	defer wire.Close()
	s := &stream{link: l, wire: wire, out: newOutbox(), closing: make(chan uint64, maxClosing)}
	hello := control.Hello{
		Version: l.version, Port: l.port, Advertise: l.advertise, Sessions: l.sessions.hello(),
	}
	if err := wire.Send(control.FromHost{Hello: &hello}); err != nil {
		return err
	}
	l.swap(s.out)
	defer l.swap(nil)
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { wire.Close() }) // wakes reader and writer
	defer stop()
	g.Go(func() error { return s.read(ctx) })
	g.Go(func() error { return s.write(ctx) })
	g.Go(func() error { return s.settle(ctx) })
	g.Go(func() error { return l.keepFresh(ctx, client) })
	return g.Wait()
}

func (l *link) swap(out *outbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = out
}

func (s *stream) read(ctx context.Context) error {
	for {
		m, err := s.wire.Recv()
		if err != nil {
			return err
		}
		if err := s.first(m); err != nil {
			return err
		}
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

// first insists that a stream begins with the whole truth.
func (s *stream) first(m control.ToHost) error {
	if !s.synced && m.Sync == nil {
		return errProtocol
	}
	return nil
}

// handle carries out one order. Its error ends the stream; what went wrong with
// the order itself is in the acknowledgement.
func (s *stream) handle(ctx context.Context, m control.ToHost) error {
	var fault error
	switch {
	case m.Sync != nil:
		s.knocks.setClock(m.Sync.Now)
		err := s.sessions.do(func(owner context.Context) {
			fault = s.sessions.sync(owner, m.Sync.Sessions)
		})
		if err != nil {
			return err
		}
		if fault != nil {
			s.log.Error("not all sessions of the controller are open", logkeys.Error, fault)
		}
		s.synced = true
		s.up()
		s.onUp()
		return s.ackLater(ctx, m.Number)
	case m.Open != nil:
		err := s.sessions.do(func(owner context.Context) {
			fault = s.sessions.open(owner, *m.Open)
		})
		if err != nil {
			return err
		}
	case m.Close != nil:
		err := s.sessions.do(func(owner context.Context) {
			s.sessions.end(owner, ordered(m.Close.Reason), m.Close.Session)
		})
		if err != nil {
			return err
		}
		return s.ackLater(ctx, m.Number)
	case m.Told != nil:
		s.onTold(ctx, m.Told.Sequence)
	case m.Ping != nil:
		if s.knocks.correctClock(m.Ping.Now) {
			s.state.changed()
		}
	default:
		fault = errEmptyOrder
	}
	s.ack(m.Number, fault)
	return nil
}

// ackLater hands an order that ended sessions to settle.
func (s *stream) ackLater(ctx context.Context, number uint64) error {
	select {
	case s.closing <- number:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream) ack(number uint64, fault error) {
	a := control.Ack{Number: number}
	if fault != nil {
		a.Error = fault.Error()
	}
	s.out.put(control.FromHost{Ack: &a})
}

// settle acknowledges orders that end sessions, once the state file has it: an
// agent that dies right after must not bring them back. One write serves all that
// have come meanwhile.
func (s *stream) settle(ctx context.Context) error {
	for {
		var numbers []uint64
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case n := <-s.closing:
			numbers = append(numbers, n)
		}
		for more := true; more; {
			select {
			case n := <-s.closing:
				numbers = append(numbers, n)
			default:
				more = false
			}
		}
		err := s.state.flush()
		for _, n := range numbers {
			s.ack(n, err)
		}
	}
}

func (s *stream) write(ctx context.Context) error {
	for {
		messages, err := s.out.take(ctx)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := s.wire.Send(m); err != nil {
				return err
			}
		}
	}
}

package host

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	// look is the longest the owner sleeps while there is something to watch. A
	// machine that wakes up from suspension finds its timers late; this bounds it.
	look = time.Second
	// reconcileEvery is how often the kernel's list is compared with the books.
	reconcileEvery = 10 * time.Second
)

// gate is what sessions need of the tunnel's socket.
type gate interface {
	Admit(source netip.AddrPort, session key.ID)
	Revoke(source netip.AddrPort)
	Session(source netip.AddrPort) (key.ID, bool)
}

// hints is what sessions need of the host knocks' table.
type hints interface {
	Put(id key.ID, k key.HostKnock)
	Remove(id key.ID)
}

// tunnels is what sessions need of the tunnels' server.
type tunnels interface {
	CloseSession(session key.ID, reason tunnel.Reason, text string) int
}

// sessions is all live sessions and the pinholes they hold.
type sessions struct {
	fw firewall.Firewall
	// protection has the decision whether rules are in force; nil: they are.
	protection *protect.Store
	rules      firewall.Rules
	ruled      time.Duration          // when rules were read, on the boot clock
	reread     func() (ruling, error) // as they are configured now; nil: as they were
	gate       gate
	reach      *reach
	hints      hints
	// tunnels is set before run.
	tunnels tunnels
	now     clock
	port    uint16
	log     *slog.Logger
	// onEnd is told of each session that ended, onChange of each change that the
	// state file is to know. Neither may block.
	onEnd    func(control.Ended)
	onChange func()

	orders  chan func(context.Context) // run by the owner
	knocked chan struct{}              // one token: moved is not empty
	// disturbed has a token when somebody else may have changed the rules: true when the
	// kernel told so.
	disturbed chan bool
	// postponed, the owner's, says that mending waits for a command to end.
	postponed bool
	// time is what keep rules are judged by, and whether it is the controller's; nil:
	// this machine's. configured and judged, the owner's, are what rules were made of
	// and the time then.
	time       func() (now time.Time, sure bool)
	configured ruling
	judged     time.Time
	stopped    chan struct{}
	closers    sync.WaitGroup // goroutines that close tunnels

	// Only the owner goroutine uses these.
	holes  *pinholes
	timers deadlines
	stale  bool           // the kernel may differ from the books
	state  protect.State  // that the table was last brought to
	last   protect.Record // the decision that it was brought to
	read   protect.Record // the decision that rules are as new as
	unread bool           // the decision could not be read when last looked at
	synced bool           // the controller has told which sessions there are

	mu    sync.Mutex // guards what follows
	live  map[key.ID]*session
	moved map[key.ID]struct{} // bound by a host knock the kernel does not know of yet
	// carried is what the sessions that ended had carried, in bytes.
	carried uint64
}

// newSessions completes b, which says what surrounds the sessions.
func newSessions(b *sessions) *sessions {
	b.orders = make(chan func(context.Context))
	b.knocked = make(chan struct{}, 1)
	b.disturbed = make(chan bool, 1)
	b.stopped = make(chan struct{})
	b.holes = newPinholes()
	if b.reach == nil {
		b.reach = newReach(nil)
	}
	b.live = make(map[key.ID]*session)
	b.moved = make(map[key.ID]struct{})
	return b
}

// do runs f on the owner goroutine and waits for it. The context that f gets does
// not end with whoever asked: half an order is worse than a late one.
func (b *sessions) do(f func(ctx context.Context)) error {
	done := make(chan struct{})
	select {
	case b.orders <- func(ctx context.Context) { defer close(done); f(ctx) }:
	case <-b.stopped:
		return errStopped
	}
	<-done
	return nil
}

// run owns the sessions until ctx ends. Then it leaves them and their pinholes to
// the kernel's deadlines and the next start.
func (b *sessions) run(ctx context.Context) error {
	defer b.closers.Wait()
	defer close(b.stopped)
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	decisions := time.NewTicker(decisionsEvery)
	defer decisions.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	stop := ctx.Done()
	ctx = context.WithoutCancel(ctx) // a change of the firewall is never half done
	for {
		timer.Reset(b.wait())
		select {
		case <-stop:
			return nil
		case f := <-b.orders:
			f(ctx)
		case <-b.knocked:
			b.narrow(ctx)
		case heard := <-b.disturbed:
			b.mend(ctx, heard)
		case <-tick.C:
			b.reconcile(ctx)
		case <-decisions.C:
			b.followDecision(ctx)
			b.rejudge(ctx)
			b.resume(ctx)
			if b.stale { // this wakes the owner too often for its timer to run out
				b.reconcile(ctx)
			}
		case <-timer.C:
			if b.stale {
				b.reconcile(ctx)
			}
		}
		b.expire(ctx)
	}
}

// wait returns how long the owner may sleep.
func (b *sessions) wait() time.Duration {
	switch {
	case len(b.timers) > 0:
		return max(0, min(look, b.timers[0].at-b.now()))
	case b.stale:
		return look
	}
	return reconcileEvery
}

// open opens the ordered sessions, or renews those that live, in one transaction.
// It returns the joined faults of the orders that were refused; when the firewall
// cannot be changed, none is opened.
func (b *sessions) open(ctx context.Context, orders ...control.Session) error {
	var faults []error
	next := make(map[key.ID]terms)
	want := make(map[key.ID][]claim)
	for _, o := range orders {
		t, bound, err := b.terms(o)
		if err != nil {
			faults = append(faults, err)
			b.log.Warn("order refused", logkeys.Session, o.ID, logkeys.Error, err)
			continue
		}
		next[o.ID] = t
		want[o.ID] = t.claims(bound, b.port)
	}
	if err := b.apply(ctx, want); err != nil {
		return err
	}
	for id, t := range next {
		b.commit(id, t)
	}
	b.onChange()
	return errors.Join(faults...)
}

// terms checks one order against the session of its id, if that lives.
func (b *sessions) terms(o control.Session) (terms, netip.AddrPort, error) {
	t, err := newTerms(o, b.now())
	if err != nil {
		return terms{}, netip.AddrPort{}, err
	}
	if err := b.permitted(t); err != nil {
		return terms{}, netip.AddrPort{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.live[o.ID]
	if !ok {
		return t, netip.AddrPort{}, nil
	}
	t, err = s.renew(t)
	return t, s.bound, err
}

// permitted returns why the host does not serve such a session, if so.
func (b *sessions) permitted(t terms) error {
	if !t.direct() {
		return b.reach.check(t.order.Mode, t.order.Target)
	}
	if t.port == b.port && t.order.Transport == control.TransportUDP {
		return fmt.Errorf("%w: port %d is the tunnel's end", errOrder, t.port)
	}
	return nil
}

// commit makes t the terms of its session, whose pinholes are open.
func (b *sessions) commit(id key.ID, t terms) {
	heap.Push(&b.timers, deadline{t.until, id})
	b.mu.Lock()
	defer b.mu.Unlock()
	s, renewed := b.live[id]
	if !renewed || !s.order.Knock.Equal(t.order.Knock.HostKnock) {
		b.hints.Put(id, t.order.Knock.HostKnock)
	}
	if renewed {
		s.terms = t
	} else {
		b.live[id] = newSession(t)
	}
	b.log.Info("session open", logkeys.Session, id, logkeys.Device, t.order.Device,
		logkeys.Service, t.order.Service, logkeys.Source, t.order.Source,
		logkeys.Duration, time.Duration(t.order.TTL))
}

// sync makes the listed sessions the only ones, and the kernel's pinholes theirs.
func (b *sessions) sync(ctx context.Context, listed []control.Session) error {
	// What ran out on its way here is not listed any more.
	listed = slices.DeleteFunc(slices.Clone(listed), func(o control.Session) bool { return o.TTL <= 0 })
	keep := make(map[key.ID]bool, len(listed))
	for _, o := range listed {
		keep[o.ID] = true
	}
	var gone []key.ID
	for _, id := range b.ids() {
		if !keep[id] {
			gone = append(gone, id)
		}
	}
	b.end(ctx, unlisted(), gone...)
	err := b.open(ctx, listed...)
	b.synced = true
	b.reconcile(ctx)
	return err
}

func (b *sessions) ids() []key.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]key.ID, 0, len(b.live))
	for id := range b.live {
		ids = append(ids, id)
	}
	return ids
}

// expire ends the sessions whose deadline has come.
func (b *sessions) expire(ctx context.Context) {
	now := b.now()
	var due []key.ID
	for len(b.timers) > 0 && b.timers[0].at <= now {
		id := heap.Pop(&b.timers).(deadline).id
		b.mu.Lock()
		s, ok := b.live[id]
		if ok && s.until <= now { // or it was renewed, and has another timer
			due = append(due, id)
		}
		b.mu.Unlock()
	}
	b.end(ctx, expired(), due...)
}

// adopt takes over what an agent before this one left: sessions from the state
// file and those of their pinholes that the kernel still holds. It opens none.
// Where a session was bound, the socket admits it again: the client's next
// datagram is answered with a reset, and it connects anew at once.
func (b *sessions) adopt(records []record, kernel []firewall.Pinhole) {
	held := make(map[firewall.Pinhole]bool, len(kernel))
	for _, k := range kernel {
		held[k.Opening()] = true
	}
	now := b.now()
	for _, r := range records {
		s, err := r.session(now)
		if err != nil {
			continue // expired meanwhile, or nothing this agent would have written
		}
		for _, c := range s.claims(s.bound, b.port) {
			if held[c.opening] && c.until > now {
				b.holes.add(s.order.ID, c)
			}
		}
		heap.Push(&b.timers, deadline{s.until, s.order.ID})
		b.live[s.order.ID] = s
		b.hints.Put(s.order.ID, s.order.Knock.HostKnock)
		if s.bound.IsValid() && !s.direct() {
			b.gate.Admit(s.bound, s.order.ID)
		}
	}
	b.log.Info("sessions adopted", logkeys.Count, len(b.live))
}

// records returns the live sessions for the state file.
func (b *sessions) records() []record {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]record, 0, len(b.live))
	for _, s := range b.live {
		all = append(all, s.record())
	}
	return all
}

// hello returns the live sessions as their orders, with the time that is left.
func (b *sessions) hello() []control.Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	all := make([]control.Session, 0, len(b.live))
	for _, s := range b.live {
		if s.until > now {
			o := s.order
			o.TTL = control.Duration(s.until - now)
			all = append(all, o)
		}
	}
	return all
}

// deadlines is a heap of when to look at which session. Renewed sessions have
// several entries; the older ones find nothing to do.
type deadlines []deadline

type deadline struct {
	at time.Duration
	id key.ID
}

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push implements [heap.Interface].
func (d *deadlines) Push(x any) { *d = append(*d, x.(deadline)) }

// Pop implements [heap.Interface].
func (d *deadlines) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

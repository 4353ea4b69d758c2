package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// Controller is what is needed to knock at a controller.
type Controller struct {
	Name      string               // audience of knocks
	Addresses []string             // host:port of the knock port
	PublicKey key.ControllerPublic // bodies of knocks are sealed to it
}

// Timing of knocks.
const (
	// KnockTimeout is how long a knock waits for its answer unless told otherwise.
	// A host that does not answer the controller is given 2 s, and the reply says so.
	KnockTimeout = 5 * time.Second
	// Tolerance is how far a knocker's clock may be from the receiver's.
	Tolerance = 90 * time.Second

	// stagger is the head start of one address over the next (RFC 8305, section 5).
	stagger = 250 * time.Millisecond
	// lateAnswers is how long answers to the other knocks may still come.
	lateAnswers = 3 * time.Second
	// maxFaults bounds the errors that one socket's reader bears.
	maxFaults = 64
	// offsetWorthDoubting is the clock offset from which on every second knock goes
	// out without it: the clock may have been set right meanwhile.
	offsetWorthDoubting = Tolerance / 3
)

// retries are the times at which fresh knocks go out after the first ones. They
// are apart far enough for a controller at the other end of the world that waits
// for a host at this end.
func retries() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{700 * ms, 1500 * ms, 2600 * ms, 4000 * ms}
}

// KnockConfig is one knock, with all its retransmissions.
type KnockConfig struct {
	Controller Controller
	ID         key.ID          // who knocks: a device, host or join token
	Secret     key.Knock       // shared with the controller
	Offset     time.Duration   // controller's clock minus ours, as last seen; 0 when unknown
	Doubts     []time.Duration // offsets that may be the right ones instead

	Kind     spa.Kind
	Service  string
	Session  key.ID
	Duration time.Duration // asked for; 0 leaves it to policy

	Timeout time.Duration    // 0: KnockTimeout
	Prefer  netip.AddrPort   // the address to try first, unless it is none of the controller's any more
	Now     func() time.Time // nil: time.Now

	Resolver *net.Resolver // of the controller's names; nil: the system's

	// Late gets the answers that come after the first one: each knock of a retry
	// that was not lost has its own, and that of KindAccess its own session. They
	// are waited for in a goroutine of Group's, after Knock has returned, a few
	// seconds at most and until Stop is closed. All may be nil.
	Late  func(Answer)
	Group *sync.WaitGroup
	Stop  <-chan struct{}
}

// Answer is the controller's answer to a knock.
type Answer struct {
	Grant  *spa.Grant     // nil when a session was ended, as asked
	Time   time.Time      // the controller's clock when it answered
	Offset time.Duration  // controller's clock minus ours
	Server netip.AddrPort // who answered

	denial *spa.Denial
}

// Knock sends one knock and waits for its sealed answer. Several addresses are
// tried at short intervals, and silence is met with fresh knocks, since packets
// get lost. A refusal is a [*DeniedError], silence [ErrNoAnswer]; a cancelled ctx
// returns its cause.
func Knock(ctx context.Context, c KnockConfig) (Answer, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Timeout <= 0 {
		c.Timeout = KnockTimeout
	}
	limited, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrNoAnswer)
	defer cancel()
	k := &knocker{KnockConfig: c, answers: make(chan Answer), stop: make(chan struct{})}
	answer, err := k.run(limited)
	if answer.Grant != nil && c.Late != nil && c.Group != nil && k.unanswered() > 0 {
		c.Group.Go(func() {
			k.linger()
			k.close()
		})
	} else {
		k.close()
	}
	return answer, err
}

// knocker owns the sockets, one for each address, and their readers.
type knocker struct {
	KnockConfig
	answers chan Answer
	stop    chan struct{}
	readers sync.WaitGroup
	sockets []*knockSocket
}

// knockSocket is connected, so that only the controller's datagrams come in.
type knockSocket struct {
	conn   *net.UDPConn
	server netip.AddrPort

	mu   sync.Mutex
	sent []sentKnock // unanswered, a handful at most
}

type sentKnock struct {
	pending *spa.Pending
	at      time.Time
}

func (k *knocker) close() {
	close(k.stop)
	for _, s := range k.sockets {
		s.conn.Close()
	}
	k.readers.Wait()
}

// run sends by the timetable until an answer or the end of ctx.
func (k *knocker) run(ctx context.Context) (Answer, error) {
	looking, stop := context.WithCancel(ctx)
	defer stop()
	t := k.newTargets(looking, &k.readers)
	begin := time.Now()
	opening := begin // when the next address's turn comes
	for again := 0; ; {
		if len(t.next) == 0 && t.pending == 0 && len(k.sockets) == 0 {
			return Answer{}, fmt.Errorf("%w: %w", ErrNoAddress, errors.Join(t.faults...))
		}
		var due []time.Time
		if len(t.next) > 0 {
			due = append(due, opening)
		}
		if len(k.sockets) > 0 && again < len(retries()) {
			due = append(due, begin.Add(retries()[again]))
		}
		answer, ok, err := k.wait(ctx, t, due)
		if ok || err != nil {
			return finish(answer, k.stopped(t, err))
		}
		if now := time.Now(); len(t.next) > 0 && !now.Before(opening) {
			opening, err = k.turn(ctx, t, now)
		} else if len(k.sockets) > 0 && again < len(retries()) && !now.Before(begin.Add(retries()[again])) {
			err = k.resend(again)
			again++
		}
		if err != nil {
			return Answer{}, err
		}
	}
}

// turn knocks at the next address, and returns when the one after it has its turn.
func (k *knocker) turn(ctx context.Context, t *targets, now time.Time) (time.Time, error) {
	datagram, sent, err := k.seal(k.Offset)
	if err != nil {
		return now, err
	}
	if err := k.open(ctx, t.pop(), datagram, sent); err != nil {
		t.faults = append(t.faults, err) // no route, or our own firewall: the next one at once
		return now, nil
	}
	return now.Add(stagger), nil
}

// resend knocks anew at all addresses so far.
func (k *knocker) resend(again int) error {
	offset := k.offset(again)
	for _, s := range k.sockets {
		datagram, sent, err := k.seal(offset)
		if err != nil {
			return err
		}
		// A route that went away may come back before the time is over.
		_ = s.send(datagram, sent)
	}
	return nil
}

// offset is the clock offset of the knocks that are sent again: every second time it
// is one of the doubtful ones.
func (k *knocker) offset(again int) time.Duration {
	others := slices.Clone(k.Doubts)
	if k.Offset.Abs() >= offsetWorthDoubting {
		others = append(others, 0)
	}
	if again%2 == 1 || len(others) == 0 {
		return k.Offset
	}
	return others[again/2%len(others)]
}

// stopped is why there is no answer. Silence is that of an address: where names have
// hung until now, there was nobody to be silent.
func (k *knocker) stopped(t *targets, err error) error {
	if errors.Is(err, ErrNoAnswer) && len(k.sockets) == 0 {
		return fmt.Errorf("%w: %w", ErrNoAddress, errors.Join(append(t.faults, errLookUp)...))
	}
	return err
}

// unanswered counts the knocks that may still be answered.
func (k *knocker) unanswered() int {
	n := 0
	for _, s := range k.sockets {
		s.mu.Lock()
		n += len(s.sent)
		s.mu.Unlock()
	}
	return n
}

func (k *knocker) linger() {
	timer := time.NewTimer(lateAnswers)
	defer timer.Stop()
	for k.unanswered() > 0 {
		select {
		case answer := <-k.answers:
			k.Late(answer)
		case <-timer.C:
			return
		case <-k.Stop:
			return
		}
	}
}

// wait waits for an answer, for a name that has resolved, for the first of due, or for
// the end of ctx.
func (k *knocker) wait(ctx context.Context, t *targets, due []time.Time) (Answer, bool, error) {
	var alarm <-chan time.Time
	if len(due) > 0 {
		timer := time.NewTimer(time.Until(slices.MinFunc(due, time.Time.Compare)))
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case answer := <-k.answers:
		return answer, true, nil
	case f := <-t.results:
		t.take(f)
		return Answer{}, false, nil
	case <-alarm:
		return Answer{}, false, nil
	case <-ctx.Done():
		return Answer{}, false, context.Cause(ctx)
	}
}

// finish turns the refusal that an answer carries into an error.
func finish(a Answer, err error) (Answer, error) {
	if err != nil {
		return Answer{}, err
	}
	if a.denial == nil || a.denial.Code == spa.CodeClosed {
		return a, nil
	}
	return a, &DeniedError{Code: a.denial.Code, Text: printable(a.denial.Text, maxShown)}
}

func (k *knocker) open(ctx context.Context, server netip.AddrPort,
	datagram []byte, sent sentKnock) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return fmt.Errorf("reach the controller: %w", err)
	}
	s := &knockSocket{conn: conn.(*net.UDPConn), server: server}
	if err := s.send(datagram, sent); err != nil {
		s.conn.Close()
		return err
	}
	k.sockets = append(k.sockets, s)
	k.readers.Go(func() { k.read(s) })
	return nil
}

// seal makes a fresh knock: a copy of an earlier one would be taken for a replay.
func (k *knocker) seal(offset time.Duration) ([]byte, sentKnock, error) {
	now := k.Now()
	to := k.Controller
	datagram, pending, err := spa.SealKnock(k.Secret, to.PublicKey, to.Name, spa.Request{
		Kind: k.Kind, Device: k.ID, Service: k.Service, Session: k.Session,
		Duration: k.Duration, Time: now.Add(offset),
	})
	return datagram, sentKnock{pending, now}, err
}

func (s *knockSocket) send(datagram []byte, sent sentKnock) error {
	s.mu.Lock()
	s.sent = append(s.sent, sent)
	s.mu.Unlock()
	if _, err := s.conn.Write(datagram); err != nil {
		return fmt.Errorf("send knock: %w", err)
	}
	return nil
}

// read hands on the answers that open. Anything else that comes in, an ICMP error
// included, is no reason to stop listening.
func (k *knocker) read(s *knockSocket) {
	buffer := make([]byte, 2*spa.Size)
	for faults := 0; faults < maxFaults; {
		n, err := s.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			faults++
			continue
		}
		if answer, ok := k.answerTo(s, buffer[:n]); ok {
			select {
			case k.answers <- answer:
			case <-k.stop:
				return
			}
		}
	}
}

func (k *knocker) answerTo(s *knockSocket, datagram []byte) (Answer, bool) {
	now := k.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sent := range s.sent {
		reply, err := sent.pending.OpenReply(datagram)
		if err != nil {
			continue
		}
		s.sent = slices.Delete(s.sent, i, i+1)
		middle := sent.at.Add(now.Sub(sent.at) / 2)
		return Answer{
			Grant: reply.Grant, Time: reply.Time, Server: s.server,
			Offset: reply.Time.Sub(middle), denial: reply.Denial,
		}, true
	}
	return Answer{}, false
}

package client

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// Granted is a session that the controller has granted. It holds the session's
// host-knock secret, which no formatting verb shows.
type Granted struct {
	Service  string
	Session  key.ID
	Deadline time.Time // on this machine's clock
	Host     key.ID
	grant    *spa.Grant
	by       netip.Addr    // the controller's address that answered
	until    time.Duration // the deadline on the boot clock, which counts
}

// Addresses returns where the service's host is.
func (g Granted) Addresses() []string {
	var all []string
	for _, a := range g.grant.Addresses {
		all = append(all, a.String())
	}
	return all
}

// left is the time until the deadline, whoever sets this machine's clock.
func (g Granted) left() time.Duration { return g.until - bootclock.Now() }

// live reports whether there is a session, with enough time left to be of use.
func (g Granted) live() bool { return !g.Session.IsZero() && g.left() > time.Second }

// onClock has the deadline right on a clock that was set meanwhile.
func (g Granted) onClock() Granted {
	const worth = 2 * time.Second
	at := time.Now().Round(0).Add(g.left())
	if g.grant != nil && at.Sub(g.Deadline).Abs() >= worth {
		g.Deadline = at
	}
	return g
}

// Knock asks for a session and leaves it open: for length, or as long as policy
// gives when that is 0. Errors: [*DeniedError], [ErrNoAnswer], [ErrNoAddress].
func (c *Client) Knock(ctx context.Context, service string, length time.Duration) (Granted, error) {
	var late sync.WaitGroup
	defer late.Wait() // there is something to wait for only when packets got lost
	g, err := c.knock(ctx, service, key.ID{}, length, surplus{ctx, &late})
	if err == nil && g.direct() && g.Access().Binding == control.BindAddress {
		err = c.announce(g)
	}
	return g, err
}

// surplus is where sessions are ended that knocks opened which were sent again but
// had not been lost: in the group, while life lasts.
type surplus struct {
	life  context.Context
	group *sync.WaitGroup
}

// knock asks for a session, or renews one.
func (c *Client) knock(ctx context.Context, service string, renew key.ID, length time.Duration,
	late surplus) (Granted, error) {
	k := c.identity.KnockConfig(spa.KindAccess)
	k.Service, k.Session, k.Timeout = service, renew, c.timeout
	k.Duration = length.Truncate(time.Second)
	if length > 0 && k.Duration == 0 {
		k.Duration = time.Second
	}
	used := make(chan key.ID, 1)
	k.Group, k.Stop = late.group, late.life.Done()
	k.Late = func(a control.Answer) {
		first := <-used
		used <- first
		if a.Grant != nil && a.Grant.Session != first {
			c.endSession(late.life, a.Grant.Session)
		}
	}
	answer, err := c.identity.Knock(ctx, k)
	if err == nil && answer.Grant == nil {
		err = control.ErrAnswer
	}
	if err != nil {
		used <- key.ID{}
		return Granted{}, err
	}
	g := answer.Grant
	used <- g.Session
	deadline := g.Deadline.Round(0).Add(-answer.Offset)
	return Granted{
		Service: service, Session: g.Session, Host: g.Host, grant: g, by: answer.Server.Addr(),
		Deadline: deadline, until: bootclock.Now() + deadline.Sub(time.Now().Round(0)),
	}, nil
}

// endTimeout bounds the farewell to the controller.
const endTimeout = 1500 * time.Millisecond

// endSession tells the controller that a session is over. That is a courtesy: the
// deadline ends it as well.
func (c *Client) endSession(ctx context.Context, session key.ID) {
	k := c.identity.KnockConfig(spa.KindClose)
	k.Session, k.Timeout = session, endTimeout
	_, _ = c.identity.Knock(ctx, k) // see above
}

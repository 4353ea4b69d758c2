package host

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
)

const (
	renewPause = time.Minute      // before another try, at least
	clockCheck = 10 * time.Minute // the longest sleep: the wall clock may be set
)

// keepFresh renews the certificate over the link, each time at two thirds of its
// life and a little later. The tunnel's end and the next link take the new one.
func (l *link) keepFresh(ctx context.Context, client *control.Client) error {
	due := l.renewAt()
	for {
		timer := time.NewTimer(min(clockCheck, due.Sub(l.knocks.clock.now())))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if l.knocks.clock.now().Before(due) {
			continue
		}
		if err := l.identity.Renew(ctx, client); err != nil {
			l.log.Warn("certificate not renewed, will try again", logkeys.Error, err,
				logkeys.Deadline, l.identity.Leaf().NotAfter)
			due = l.knocks.clock.now().Add(renewPause + rand.N(renewPause))
			continue
		}
		l.log.Info("certificate renewed", logkeys.Deadline, l.identity.Leaf().NotAfter)
		due = l.renewAt()
	}
}

// renewAt spreads the renewals of many hosts over a twelfth of the certificate's life.
func (l *link) renewAt() time.Time {
	leaf := l.identity.Leaf()
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return l.identity.RenewAt().Add(rand.N(max(1, life/12)))
}

// renewExpired renews a certificate whose time is over, as that of a machine
// which was off for long. The controller lets such a caller do this and nothing
// else, so the link starts again with the new one.
func (l *link) renewExpired(ctx context.Context, client *control.Client) (bool, error) {
	if time.Now().Add(client.Offset()).Before(l.identity.Leaf().NotAfter) {
		return false, nil
	}
	if err := l.identity.Renew(ctx, client); err != nil {
		return false, err
	}
	l.log.Info("expired certificate renewed", logkeys.Deadline, l.identity.Leaf().NotAfter)
	return true, nil
}

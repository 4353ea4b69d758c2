package client

import (
	"errors"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/spa"
)

const (
	// renewAgain is the least time between two tries to renew a session.
	renewAgain = time.Second
	// nearEnd is how long before the deadline a controller that is silent so far becomes
	// something to know of.
	nearEnd = 5 * time.Minute
)

// keepRenewed renews the session when two thirds of its time are over and
// connections are open. An unused session is left to end.
func (a *Access) keepRenewed() {
	for {
		a.mu.Lock()
		at, inUse := a.mu.renewAt, a.mu.inUse > 0
		a.mu.Unlock()
		var timer *time.Timer
		var due <-chan time.Time
		if at != 0 && inUse {
			// In short steps: timers stand still while a laptop sleeps.
			timer = time.NewTimer(min(max(0, at-bootclock.Now()), 10*time.Second))
			due = timer.C
		}
		select {
		case <-due:
			if bootclock.Now() >= at {
				a.renew()
			}
		case <-a.signal:
		case <-a.life.Done():
			return
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// renew asks for more time. It stops asking when policy gives no more. That is told, and
// so is that nobody answers, once, when the deadline is near: until then there are
// other tries.
func (a *Access) renew() {
	if a.take(a.life) != nil {
		return
	}
	defer func() { a.turn <- struct{}{} }()
	old := a.Granted()
	granted, err := a.ask(a.life, old.Session)
	switch {
	case a.Err() != nil:
		return
	case err == nil && granted.Session == old.Session &&
		granted.until-old.until >= renewAgain:
		a.granted(granted)
		a.Notify(Event{Kind: EventRenewed, Deadline: granted.Deadline})
		return
	case err == nil:
		err = errNoMore
	}
	again := time.Duration(0)
	if mayRenew(err) {
		again = bootclock.Now() + max(renewAgain, old.left()/3)
	}
	a.mu.Lock()
	a.mu.renewAt = again
	if again >= old.until {
		a.mu.renewAt = 0
	}
	tell := !a.mu.told && (again == 0 || old.left() <= nearEnd)
	a.mu.told = a.mu.told || tell
	a.mu.Unlock()
	if !tell {
		return
	}
	a.Notify(Event{Kind: EventNotRenewed, Deadline: old.Deadline, Err: err})
}

// mayRenew reports whether a session may still be renewed after err. A controller that
// was just started learns from the hosts which ones there are.
func mayRenew(err error) bool {
	if denied, ok := errors.AsType[*DeniedError](err); ok {
		return isBusy(err) || denied.Code == spa.CodeUnknownSession
	}
	return !errors.Is(err, errNoMore)
}

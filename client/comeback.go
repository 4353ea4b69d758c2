package client

import (
	"context"
	"errors"
	"time"

	"github.com/postern-sdp/postern/internal/tunnel"
)

// controllerPatience is how long the controller may be silent before a session that
// lives is used without its word: until its knock goes out for the second time.
const controllerPatience = 700 * time.Millisecond

// comeBack returns a new tunnel, nil for a service that is reached directly: for the
// session there is while it lives, or for a new one.
func (a *Access) comeBack(ctx context.Context) (*tunnel.Conn, error) {
	if old := a.Granted(); old.live() && !old.direct() {
		return a.reuse(ctx, old)
	}
	if err := a.admission(ctx); err != nil {
		return nil, err
	}
	return a.enter(ctx)
}

// reuse comes back with a session that lives, with the controller's word for it, or
// without when the controller is silent. While that is asked, the host may know the
// session all the same, so both are tried side by side.
func (a *Access) reuse(ctx context.Context, old Granted) (*tunnel.Conn, error) {
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	dialing, stopDialing := context.WithCancel(ctx)
	defer stopDialing()
	asked := make(chan error, 1)
	a.group.Go(func() {
		err := a.admission(asking)
		if err != nil || a.Granted().Session != old.Session {
			stopDialing() // for a session that is no more
		}
		asked <- err
	})
	patience := time.NewTimer(controllerPatience)
	defer patience.Stop()
	select {
	case err := <-asked:
		if err != nil {
			return nil, err
		}
		return a.enter(ctx)
	case <-patience.C:
	}
	conn, err := a.enter(dialing)
	if err == nil {
		stopAsking()
	}
	answer := <-asked
	if errors.Is(answer, context.Canceled) && ctx.Err() == nil {
		answer = nil // it was not waited for
	}
	now := a.Granted()
	if err == nil && answer == nil && now.Session == old.Session {
		return conn, nil
	}
	if conn != nil {
		conn.Close()
	}
	if answer != nil {
		return nil, answer
	}
	if now.grant == old.grant { // silence to the end
		return nil, err
	}
	return a.enter(ctx)
}

// enter connects to the host for the session there is.
func (a *Access) enter(ctx context.Context) (*tunnel.Conn, error) {
	if a.Granted().direct() {
		a.setDirect(true)
		return nil, nil
	}
	conn, err := tunnel.Dial(ctx, a.dialConfig())
	if err == nil {
		return conn, nil
	}
	if over := a.over(err); over != nil {
		return nil, over
	}
	return nil, err
}

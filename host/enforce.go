package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	// closeLimit bounds how long the ending of a session waits for its tunnels'
	// last words before it takes the pinhole away.
	closeLimit = 10 * time.Millisecond
	// firewallLimit bounds one transaction with the kernel.
	firewallLimit = 5 * time.Second
)

// apply opens what the sessions in want claim. On an error the books are as they
// were before, and the kernel is compared with them again.
func (b *sessions) apply(ctx context.Context, want map[key.ID][]claim) error {
	before := make(map[key.ID][]claim, len(want))
	for id := range want {
		before[id] = b.holes.of(id)
	}
	now := b.now()
	err := b.enforce(ctx, b.holes.replace(want, now))
	if err != nil {
		b.holes.replace(before, now)
	}
	return err
}

// release takes all claims of the sessions away. When the kernel cannot be told,
// the books stand, and reconciling tries again until it can.
func (b *sessions) release(ctx context.Context, ids []key.ID) {
	none := make(map[key.ID][]claim, len(ids))
	for _, id := range ids {
		none[id] = nil
	}
	if err := b.enforce(ctx, b.holes.replace(none, b.now())); err != nil {
		b.log.Error("pinholes not closed yet, will try again", logkeys.Error, err)
	}
}

// enforce makes one change in the kernel. A table that somebody removed is put
// back with all pinholes of the books: without it the host lies open.
func (b *sessions) enforce(ctx context.Context, change firewall.Change) error {
	if len(change.Open) == 0 && len(change.Revoke) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	err := b.transact(ctx, change)
	if errors.Is(err, firewall.ErrNotInstalled) {
		err = b.reinstall(ctx)
	}
	if errors.Is(err, protect.ErrBusy) {
		b.postponed = true // there is no table now: the books' pinholes come with the next one
		return nil
	}
	if err != nil {
		b.stale = true
		return fmt.Errorf("change firewall: %w", err)
	}
	return nil
}

// transact applies a change in one transaction, or, above what one can take, in a
// few: that many change only when everything is put right anyway.
func (b *sessions) transact(ctx context.Context, change firewall.Change) error {
	for len(change.Revoke)+len(change.Open) > firewall.MaxChange {
		part := firewall.Change{Revoke: change.Revoke[:min(len(change.Revoke), firewall.MaxChange)]}
		change.Revoke = change.Revoke[len(part.Revoke):]
		room := firewall.MaxChange - len(part.Revoke)
		part.Open = change.Open[:min(len(change.Open), room)]
		change.Open = change.Open[len(part.Open):]
		if err := b.fw.Apply(ctx, part); err != nil {
			return err
		}
	}
	return b.fw.Apply(ctx, change)
}

// reconcile compares the kernel's list with the books. Before the controller's
// first Sync it takes nothing away: what the books do not know may belong to a
// session that the state file missed.
func (b *sessions) reconcile(ctx context.Context) {
	if _, none := b.fw.(noFirewall); none {
		return // it holds nothing to compare
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	kernel, err := b.fw.List(ctx)
	switch {
	case errors.Is(err, firewall.ErrNotInstalled):
		err = b.reinstall(ctx)
	case err == nil:
		change := b.holes.reconcile(kernel, b.now())
		if !b.synced {
			change.Revoke = nil
		}
		if n := len(change.Open) + len(change.Revoke); n > 0 {
			b.log.Warn("pinholes corrected", logkeys.Count, n)
			err = b.transact(ctx, change)
		}
	}
	b.postponed = b.postponed || errors.Is(err, protect.ErrBusy)
	b.stale = err != nil
	if err != nil && !b.postponed {
		b.log.Error("firewall not checked, will try again", logkeys.Error, err)
	}
}

// bind moves a session to the source that its valid host knock came from, and
// reports whether it did. The tunnel's socket admits the source when this
// returns; the kernel follows as soon as the owner gets to it. It is called on the
// goroutine that read the knock.
func (b *sessions) bind(id key.ID, source netip.AddrPort) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.live[id]
	if !ok || s.until <= b.now() {
		return false
	}
	if opening(source.Addr(), source.Port(), b.port).Validate() != nil || source.Port() == 0 {
		return false
	}
	old := s.bound
	s.bound = source
	if old != source {
		b.unadmit(id, old)
	}
	if !s.direct() { // whose tunnel's end nobody has business with
		b.gate.Admit(source, id)
	}
	b.moved[id] = struct{}{}
	select {
	case b.knocked <- struct{}{}:
	default: // the owner has been told and has not looked yet
	}
	return true
}

// unadmit shuts the tunnel's socket to source, unless another session has since
// knocked from there.
func (b *sessions) unadmit(id key.ID, source netip.AddrPort) {
	if holder, ok := b.gate.Session(source); ok && holder == id {
		b.gate.Revoke(source)
	}
}

// narrow tells the kernel of the host knocks since it last ran, all in one
// transaction. When it cannot, their sessions end.
func (b *sessions) narrow(ctx context.Context) {
	b.mu.Lock()
	want := make(map[key.ID][]claim, len(b.moved))
	ids := make([]key.ID, 0, len(b.moved))
	for id := range b.moved {
		if s, ok := b.live[id]; ok {
			s.wide = 0 // the exact opening takes its place
			want[id] = s.claims(s.bound, b.port)
			ids = append(ids, id)
		}
	}
	clear(b.moved)
	b.mu.Unlock()
	if err := b.apply(ctx, want); err != nil {
		b.log.Error("pinhole not narrowed, ending the session", logkeys.Error, err)
		b.end(ctx, faulty(), ids...)
		return
	}
	b.onChange()
}

// end ends sessions: their tunnels get the reason, at most closeLimit to send it,
// their sources are shut out, and their pinholes go in one transaction.
func (b *sessions) end(ctx context.Context, reason endReason, ids ...key.ID) {
	ended := b.forget(ids)
	if len(ended) == 0 {
		return
	}
	b.cut(ended, reason)
	gone := make([]key.ID, 0, len(ended))
	b.mu.Lock()
	for _, s := range ended {
		b.unadmit(s.order.ID, s.bound)
		gone = append(gone, s.order.ID)
	}
	b.mu.Unlock()
	b.release(ctx, gone)
	b.onChange()
	for _, s := range ended {
		b.log.Info("session ended", logkeys.Session, s.order.ID, logkeys.Service, s.order.Service,
			logkeys.Reason, reason.text)
		b.onEnd(control.Ended{Session: s.order.ID, Reason: reason.text, Bytes: s.bytes.Load()})
	}
}

// forget takes sessions out of the books: from now on no knock and no tunnel
// finds them.
func (b *sessions) forget(ids []key.ID) []*session {
	b.mu.Lock()
	defer b.mu.Unlock()
	ended := make([]*session, 0, len(ids))
	for _, id := range ids {
		s, ok := b.live[id]
		if !ok {
			continue
		}
		delete(b.live, id)
		b.hints.Remove(id)
		b.carried += s.bytes.Load()
		ended = append(ended, s)
	}
	return ended
}

// cut closes the tunnels of sessions and waits for them, at most closeLimit.
func (b *sessions) cut(ended []*session, reason endReason) {
	var closing sync.WaitGroup
	for _, s := range ended {
		closing.Go(func() { b.tunnels.CloseSession(s.order.ID, reason.code, reason.text) })
	}
	done := make(chan struct{})
	b.closers.Go(func() {
		closing.Wait()
		close(done)
	})
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

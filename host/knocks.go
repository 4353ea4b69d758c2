package host

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// rollEvery is how often the hints of the coming epoch are made ready and the replay
// guard forgets old ones.
const rollEvery = 20 * time.Second

// stepped is how far the controller's time must be from ours to be taken between two
// Syncs: more than a message may be late, and far less than knocks bear.
const stepped = 10 * time.Second

// knocks checks host knocks. The tunnel's socket and the capture ahead of the
// firewall both feed it, with one replay guard: whichever sees a knock first
// takes it.
type knocks struct {
	clock    *wallClock
	table    *spa.Table[key.HostKnock]
	receiver *spa.HostKnockReceiver
	guard    *lateGuard
	bind     func(session key.ID, source netip.AddrPort) bool
	// other gets what is no host knock, and reports whether it knows it; nil: nobody.
	other  func(datagram []byte, source netip.AddrPort) bool
	log    *slog.Logger
	counts [spa.ReasonCount]atomic.Uint64

	// mu makes whoever reads a knock second wait until its source is admitted. The
	// client's first QUIC packet comes right behind the knock on the same socket: if
	// the socket's reader went on while capture still works, it would drop it.
	mu sync.Mutex
}

// take checks one datagram, admits its source when it is a valid host knock, and
// reports whether it was meant as one. Anything else costs a look-up, and what other costs.
func (k *knocks) take(datagram []byte, source netip.AddrPort) bool {
	now := k.clock.now()
	if !k.receiver.MayBeKnock(datagram, now) {
		return k.other != nil && k.other(datagram, source)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	source = netip.AddrPortFrom(source.Addr().Unmap().WithZone(""), source.Port())
	session, reason := k.receiver.Receive(datagram, now)
	k.counts[reason].Add(1)
	if reason != spa.ReasonOK {
		k.log.Debug("host knock dropped", logkeys.Source, source, logkeys.Reason, reason.String())
		return true
	}
	if !k.bind(session, source) {
		return true
	}
	k.log.Debug("host knock taken", logkeys.Source, source, logkeys.Session, session)
	return true
}

// counters returns how many host knocks had which outcome.
func (k *knocks) counters() map[string]uint64 {
	counts := make(map[string]uint64)
	for r := range k.counts {
		if n := k.counts[r].Load(); n > 0 {
			counts[spa.Reason(r).String()] = n
		}
	}
	return counts
}

// roll keeps hints and guard in step with the clock until ctx ends.
func (k *knocks) roll(ctx context.Context) error {
	tick := time.NewTicker(rollEvery)
	defer tick.Stop()
	for {
		now := k.clock.now()
		k.table.Roll(now)
		if !k.clock.atBoot().IsZero() {
			k.openGuard(now)
		}
		if err := k.guard.forget(now); err != nil {
			k.log.Error("replay journal not rotated", logkeys.Error, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// setClock takes the controller's time. The hints follow at once. The first time,
// it opens the replay journal.
func (k *knocks) setClock(now time.Time) {
	k.openGuard(now)
	k.clock.set(now)
	k.table.Roll(now)
}

// correctClock takes the controller's time when its clock was set since it last told,
// or ours has drifted, and reports whether it did. Less than stepped may be the
// message's own way here. The zero time says nothing.
func (k *knocks) correctClock(now time.Time) bool {
	off := now.Sub(k.clock.now())
	if now.IsZero() || off.Abs() < stepped {
		return false
	}
	k.log.Warn("the controller's clock is another than it was, taking it over", logkeys.Duration, off)
	k.setClock(now)
	return true
}

// openGuard opens the replay journal if it is not open. While it cannot be, no host
// knock is taken, and everything else goes on.
func (k *knocks) openGuard(now time.Time) {
	damage, err := k.guard.open(now)
	if damage != nil {
		k.log.Error("the replay journal was damaged: host knocks are refused for two minutes",
			logkeys.Error, damage)
	}
	if err != nil {
		k.log.Error("no host knock is taken: the replay journal cannot be opened, will try again",
			logkeys.Error, err)
	}
}

// lateGuard is the replay guard's journal, opened once the controller's time is
// known: the journal closes epochs by the time it is told, and this machine's own
// clock, wrong by an hour after a start, would close that hour. Until then it lets
// nothing in. Nothing is lost by it: in a new boot there is no session yet.
type lateGuard struct {
	path string

	mu    sync.Mutex // guards guard
	guard *replay.Guard
}

func (g *lateGuard) get() *replay.Guard {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.guard
}

// Seen implements [spa.Guard].
func (g *lateGuard) Seen(epoch int64, mac *[32]byte) bool {
	guard := g.get()
	return guard == nil || guard.Seen(epoch, mac)
}

// Once implements [spa.Guard].
func (g *lateGuard) Once(epoch int64, mac *[32]byte) bool {
	guard := g.get()
	return guard != nil && guard.Once(epoch, mac)
}

func (g *lateGuard) open(now time.Time) (damage, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard != nil {
		return nil, nil
	}
	guard, damage, err := replay.Salvage(g.path, now)
	if err != nil {
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	g.guard = guard
	return damage, nil
}

func (g *lateGuard) forget(now time.Time) error {
	if guard := g.get(); guard != nil {
		return guard.Forget(now)
	}
	return nil
}

func (g *lateGuard) close() error {
	if guard := g.get(); guard != nil {
		return guard.Close()
	}
	return nil
}

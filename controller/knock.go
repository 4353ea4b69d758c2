package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/listen"
)

const (
	knockBatch   = 64   // datagrams read at once
	knockWorkers = 256  // valid knocks being answered; each may wait for a host
	knockQueue   = 1024 // valid knocks waiting for a worker
	maxInFlight  = 8    // valid knocks of one identity, queued and being answered
	rejectLog    = time.Second
	readRetry    = 100 * time.Millisecond
)

// knocks is the pipeline from the listener to the answer. Whatever is invalid is
// dropped where it was read: it allocates nothing, waits for nothing, and is
// counted. Only valid knocks reach a worker.
type knocks struct {
	listener listen.Listener
	receiver *spa.KnockReceiver
	answer   func(context.Context, accepted) spa.Reply
	counters *counters
	log      *slog.Logger
	queue    chan accepted

	mu       sync.Mutex // guards inFlight
	inFlight map[key.ID]int

	lastReject time.Time // the reader's: of the last line about a rejected datagram
}

// accepted is a valid knock and where it came from and to.
type accepted struct {
	*spa.Accepted
	source, destination netip.AddrPort
}

// run reads and answers until ctx ends. It owns the listener.
func (k *knocks) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { k.listener.Close() })
	defer stop()
	for range knockWorkers {
		g.Go(func() error { k.work(ctx); return nil })
	}
	g.Go(func() error { return k.read(ctx) })
	return g.Wait()
}

func (k *knocks) read(ctx context.Context) error {
	packets := make([]listen.Packet, knockBatch)
	for {
		n, err := k.listener.ReadBatch(packets)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read knocks: %w", err)
			}
			k.log.Error("knocks could not be read, trying again", logkeys.Error, err)
			pause(ctx, readRetry)
			continue
		}
		now := time.Now()
		for i := range packets[:n] {
			k.receive(ctx, &packets[i], now)
		}
	}
}

func (k *knocks) receive(ctx context.Context, p *listen.Packet, now time.Time) {
	valid, reason := k.receiver.Receive(p.Data, now)
	k.counters.knock(reason)
	if reason != spa.ReasonOK {
		k.rejected(ctx, p, reason, now)
		return
	}
	job := accepted{valid, p.Source, p.Destination}
	if !k.enter(job.Identity) {
		k.busy(job)
		return
	}
	select {
	case k.queue <- job:
	default:
		k.leave(job.Identity)
		k.busy(job)
	}
}

// rejected writes at most one line a second, and only for those who debug.
func (k *knocks) rejected(ctx context.Context, p *listen.Packet, reason spa.Reason, now time.Time) {
	if now.Sub(k.lastReject) < rejectLog || !k.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	k.lastReject = now
	k.log.Debug("datagram rejected, others within the second not shown",
		logkeys.Reason, reason.String(), logkeys.Source, p.Source)
}

func (k *knocks) enter(id key.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inFlight[id] >= maxInFlight {
		return false
	}
	k.inFlight[id]++
	return true
}

func (k *knocks) leave(id key.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inFlight[id]--; k.inFlight[id] <= 0 {
		delete(k.inFlight, id)
	}
}

func (k *knocks) busy(job accepted) {
	k.counters.busy.Add(1)
	k.reply(job, denial(errBusy))
}

func (k *knocks) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-k.queue:
			reply := k.answer(ctx, job)
			k.leave(job.Identity)
			if ctx.Err() == nil {
				k.reply(job, reply)
			}
		}
	}
}

// reply sends the one answer to a valid knock.
func (k *knocks) reply(job accepted, r spa.Reply) {
	r.Time = time.Now()
	sealed, err := job.SealReply(r)
	if err != nil {
		k.log.Error("answer could not be sealed", logkeys.Error, err, logkeys.Identity, job.Identity)
		return
	}
	if err := k.listener.Reply(sealed, job.source, job.destination); err != nil {
		k.log.Warn("answer could not be sent", logkeys.Error, err, logkeys.Source, job.source)
	}
}

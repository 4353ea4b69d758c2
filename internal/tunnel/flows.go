package tunnel

import (
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// FlowCounters are datagrams of UDP flows that came to nothing.
type FlowCounters struct {
	Strangers uint64 // of no flow, or of one that has ended
	Dropped   uint64 // of a flow whose reader is too slow
}

type flowCounts struct{ strangers, dropped atomic.Uint64 }

func (c *flowCounts) load() FlowCounters {
	return FlowCounters{Strangers: c.strangers.Load(), Dropped: c.dropped.Load()}
}

// flows are the UDP flows of one connection, at either end.
type flows struct {
	conn   *quic.Conn
	counts *flowCounts
	limit  int // at once; 0: as many as there can be streams

	running sync.WaitGroup

	mu        sync.RWMutex // guards what follows
	live      map[uint64]*Flow
	receiving bool
	closed    bool
}

func newFlows(conn *quic.Conn, limit int, counts *flowCounts) *flows {
	return &flows{conn: conn, limit: limit, counts: counts, live: make(map[uint64]*Flow)}
}

// add makes a flow of a new stream, whose datagrams it takes in from now on. It is
// [ErrBusy] when there are as many as may be.
func (f *flows) add(s *Stream) (*Flow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, cause(f.conn.Context())
	case f.limit > 0 && len(f.live) >= f.limit:
		return nil, ErrBusy
	}
	p := newFlow(s, f)
	f.live[p.id] = p
	if !f.receiving {
		f.receiving = true
		f.running.Go(f.receive)
	}
	return p, nil
}

// run runs do, which ends with the connection, in the flows' care. After close it
// does not.
func (f *flows) run(do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.running.Go(do)
	}
	return !f.closed
}

func (f *flows) remove(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, id)
}

// receive hands each datagram of the connection to its flow, and returns when the
// connection has ended. It waits for no flow. PROTOCOL 8.2
func (f *flows) receive() {
	for {
		datagram, err := f.conn.ReceiveDatagram(f.conn.Context())
		if err != nil {
			return
		}
		id, payload, ok := parseDatagram(datagram)
		var p *Flow
		if ok {
			f.mu.RLock()
			p = f.live[id]
			f.mu.RUnlock()
		}
		if p == nil {
			f.counts.strangers.Add(1)
			continue
		}
		p.deliver(payload)
	}
}

// close lets nothing begin any more and waits for what runs. The connection has ended.
func (f *flows) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.running.Wait()
}

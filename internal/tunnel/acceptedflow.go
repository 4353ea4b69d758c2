package tunnel

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/lossy"
)

// udp connects one flow and carries it.
func (a *accepted) udp(s *Stream) {
	// Ahead of connecting, to be counted, and of the answer: the client sends as soon
	// as it has it.
	p, err := a.flows.add(s)
	if err != nil {
		a.refuse(s, &RefusedError{Status: StatusBusy, Text: "too many UDP flows at once"})
		return
	}
	backend, err := a.connectPacket()
	if err != nil {
		a.flows.remove(p.id)
		a.refuse(s, err)
		return
	}
	if _, err := s.Write(appendAnswer(nil, nil)); err != nil {
		p.end(err)
		backend.Close()
		return
	}
	in, out, err := carryFlow(p, backend, a.server.config.FlowIdle)
	a.log.Debug("flow ended", logkeys.Reason, err, logkeys.Bytes, in+out)
}

func (a *accepted) connectPacket() (net.Conn, error) {
	switch {
	case a.server.config.ConnectPacket == nil:
		return nil, &RefusedError{Status: StatusDenied, Text: "this host has no UDP services"}
	case !a.conn.ConnectionState().SupportsDatagrams.Remote:
		return nil, &RefusedError{Status: StatusMalformed, Text: "a flow without datagrams"}
	}
	peer, err := a.server.peer(a.conn, a.session)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(a.ctx, connectTimeout)
	defer cancel()
	backend, err := a.server.config.ConnectPacket(ctx, peer)
	if err == nil && backend == nil {
		err = ErrUnreachable
	}
	return backend, err
}

// carryFlow carries datagrams between a flow and its service until the flow or its
// connection ends, or nothing came either way for as long as idle. It closes both, and
// returns how many bytes went to the service and came from it, and why it ended.
func carryFlow(p *Flow, backend net.Conn, idle time.Duration) (in, out int64, err error) {
	var running sync.WaitGroup
	running.Go(p.receive)
	running.Go(func() {
		p.endIdle(idle)
		backend.Close()
	})
	running.Go(func() { in = toService(backend, p) })
	out, err = fromService(p, backend)
	p.end(err)
	running.Wait()
	return in, out, p.why()
}

// toService returns when the flow has ended. That a datagram cannot be sent, as to a
// port that nobody listens on, is the datagram's end only.
func toService(backend net.Conn, p *Flow) (n int64) {
	for {
		b, err := p.next()
		if err != nil {
			return n
		}
		written, _ := backend.Write(b)
		n += int64(written)
	}
}

// fromService returns when the flow has ended, or the service's socket has.
func fromService(p *Flow, backend net.Conn) (n int64, err error) {
	b := make([]byte, MaxPacket)
	for {
		read, err := backend.Read(b)
		if err != nil && lossy.Is(err) {
			continue // what ICMP had to say about an earlier datagram
		}
		if err != nil {
			return n, err
		}
		n += int64(read)
		if _, err := p.Write(b[:read]); err != nil {
			return n, err
		}
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/accept"
	"github.com/postern-sdp/postern/internal/tunnel"
)

// Dialer is what an agent reaches services with.
type Dialer interface {
	Dial(ctx context.Context, service string) (net.Conn, error)
	DialPacket(ctx context.Context, service string) (net.Conn, error)
}

// Config is how Serve works.
type Config struct {
	Kind    string
	Version string // of this program; an agent serves its like only
	// Dialer makes the connections that are asked for; nil: none are made.
	Dialer Dialer
	// Sessions tells what is open; nil: nothing.
	Sessions func() []client.AccessInfo
	// Notices has what the users of a session are told; nil: nothing.
	Notices *Notices
	// Current tells whether the identity that Dialer uses is still the one in its
	// folder; nil: it is. When it is not, Serve makes way.
	Current func() error
	// Idle ends Serve when nobody has been connected and no session has been open for
	// that long; 0: never.
	Idle time.Duration
}

// Serve answers on l until ctx ends, or nobody has wanted anything for the time
// that the configuration says, or it is told to end. It closes l and ends what it
// carries.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	s := &server{Config: c, started: time.Now(), peers: make(chan struct{}, maxPeers)}
	var stop context.CancelFunc
	s.life, stop = context.WithCancel(ctx)
	defer stop()
	s.stop = stop
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	defer l.Close()
	closing := context.AfterFunc(s.life, func() { l.Close() })
	defer closing()
	s.accepting, s.retire = context.WithCancel(s.life)
	defer s.retire()
	retiring := context.AfterFunc(s.accepting, func() { l.Close() })
	defer retiring()
	if c.Idle > 0 {
		group.Go(s.watchIdle)
	}
	var carried sync.WaitGroup
	for {
		conn, err := accept.Next(s.accepting, l, func(error) {})
		if err != nil {
			if s.life.Err() == nil && s.accepting.Err() == nil {
				return fmt.Errorf("wait for a command: %w", err)
			}
			carried.Wait() // after retire, until the last one is done; else they were cut
			return nil
		}
		unix, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			continue
		}
		select {
		case s.peers <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		carried.Go(func() {
			defer func() { <-s.peers }()
			s.serve(newPeer(unix))
		})
	}
}

type server struct {
	Config
	started   time.Time
	life      context.Context // ends everything
	stop      context.CancelFunc
	accepting context.Context // ended by retire
	retire    context.CancelFunc
	peers     chan struct{} // as many tokens as there are connections
}

// watchIdle ends an agent that nobody needs.
func (s *server) watchIdle() {
	beat := max(s.Idle/10, 10*time.Millisecond)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	used := time.Now()
	for {
		select {
		case <-s.life.Done():
			return
		case <-tick.C:
		}
		if len(s.peers) > 0 || s.Sessions != nil && len(s.Sessions()) > 0 {
			used = time.Now()
		}
		if time.Since(used) >= s.Idle {
			s.retire() // whoever connects at this moment is still served
			return
		}
	}
}

func (s *server) serve(p *peer) {
	defer p.Close()
	cut := context.AfterFunc(s.life, func() { p.Close() })
	defer cut()
	_ = p.SetDeadline(time.Now().Add(requestTime)) // of a socket that is open
	var r request
	if receive(p, maxLine, &r) != nil || len(r.Service) > maxService {
		return
	}
	_ = p.SetDeadline(time.Time{})
	switch r.Do {
	case doDial, doPacket:
		s.dial(p, r)
	case doStatus:
		_ = send(p, answer{Process: s.process()})
	case doRetire, doStop:
		s.retire()
		if r.Do == doStop {
			defer s.stop()
		}
		_ = send(p, answer{Process: s.process()})
	}
}

func (s *server) process() *Process {
	p := &Process{
		Kind: s.Kind, PID: os.Getpid(), Version: s.Version, Started: s.started, Sessions: []client.AccessInfo{},
	}
	if s.Sessions != nil {
		p.Sessions = append(p.Sessions, s.Sessions()...)
	}
	return p
}

// dial carries one connection. Whoever asked may go away while it is being made.
func (s *server) dial(p *peer, r request) {
	err := s.accepting.Err()
	switch {
	case s.Dialer == nil || r.Version != s.Version:
		err = errVersion
	case err != nil:
		err = errRetired
	case s.Current != nil && s.Current() != nil:
		s.retire()
		err = errRetired
	}
	if err != nil {
		_ = send(p, answer{Error: faultOf(err)})
		return
	}
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	gone := make(chan struct{})
	go func() { // ends when a byte comes, or p is closed or its deadline is set, below
		defer close(gone)
		if _, err := p.r.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	open := s.Dialer.Dial
	if r.Do == doPacket {
		open = s.Dialer.DialPacket
	}
	conn, err := open(ctx, r.Service)
	_ = p.SetReadDeadline(time.Now()) // wakes the one above
	<-gone
	_ = p.SetReadDeadline(time.Time{})
	if err != nil {
		_ = send(p, answer{Error: faultOf(err)})
		return
	}
	defer conn.Close()
	if send(p, answer{}) != nil {
		return
	}
	l := &local{peer: p}
	var telling sync.WaitGroup
	defer telling.Wait()
	events, leave := s.Notices.join(r.Service)
	defer leave()
	telling.Go(func() { l.tell(events) })
	if r.Do == doPacket {
		l.end(carryPackets(ctx, l, conn))
		return
	}
	service, ok := conn.(tunnel.Duplex)
	if !ok {
		l.end(client.ErrNotTCP)
		return
	}
	_, _, err = tunnel.Copy(ctx, l, service)
	l.end(err)
}

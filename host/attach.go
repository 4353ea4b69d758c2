package host

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// targetLimit bounds the connecting to a service's target.
const targetLimit = 5 * time.Second

// attach ties a new tunnel to the session that its source knocked for. who is the
// identity in the verified leaf of the peer's certificate: it must be the client
// device that the controller granted this very session to. The tunnel is counted
// until ctx, the connection's, ends.
func (b *sessions) attach(ctx context.Context, id key.ID, who control.Identity) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.live[id]
	switch {
	case !ok:
		return errNoSession
	case who.Role != control.RoleClient:
		return errRole
	case who.ID != s.order.Device:
		return errNotYours
	case s.until <= b.now():
		return errExpired
	}
	s.tunnels++
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		s.tunnels--
	})
	return nil
}

// connect dials the target of a session for a new stream: the session's own
// target, for its own device, and only while it lives.
func (b *sessions) connect(ctx context.Context, id key.ID, who control.Identity) (*service, error) {
	c, s, err := b.dial(ctx, id, who, control.TransportTCP)
	if err != nil {
		return nil, err
	}
	return &service{TCPConn: c.(*net.TCPConn), bytes: &s.bytes}, nil
}

// connectPacket is connect for a UDP flow.
func (b *sessions) connectPacket(ctx context.Context, id key.ID, who control.Identity) (net.Conn, error) {
	c, s, err := b.dial(ctx, id, who, control.TransportUDP)
	if err != nil {
		return nil, err
	}
	return &packets{Conn: c, bytes: &s.bytes}, nil
}

func (b *sessions) dial(ctx context.Context, id key.ID, who control.Identity,
	transport control.Transport) (net.Conn, *session, error) {
	b.mu.Lock()
	s, ok := b.live[id]
	if !ok || s.until <= b.now() {
		b.mu.Unlock()
		return nil, nil, errExpired
	}
	target, device, access := s.order.Target, s.order.Device, s.order.Access.Resolved()
	b.mu.Unlock()
	if who.ID != device || who.Role != control.RoleClient {
		return nil, nil, errNotYours
	}
	if access.Transport != transport {
		return nil, nil, errTransport
	}
	c, err := b.reach.dial(ctx, string(transport), access.Mode, target)
	return c, s, err
}

// packets is a UDP flow to a session's target that counts what it carries.
type packets struct {
	net.Conn
	bytes *atomic.Uint64
}

// Read implements [io.Reader].
func (p *packets) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.bytes.Add(uint64(n))
	return n, err
}

// Write implements [io.Writer].
func (p *packets) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	p.bytes.Add(uint64(n))
	return n, err
}

// service is a connection to a session's target that counts what it carries.
type service struct {
	*net.TCPConn
	bytes *atomic.Uint64
}

// Read implements [io.Reader].
func (s *service) Read(b []byte) (int, error) {
	n, err := s.TCPConn.Read(b)
	s.bytes.Add(uint64(n))
	return n, err
}

// Write implements [io.Writer].
func (s *service) Write(b []byte) (int, error) {
	n, err := s.TCPConn.Write(b)
	s.bytes.Add(uint64(n))
	return n, err
}

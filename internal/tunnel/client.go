package tunnel

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/postern-sdp/postern/spa/key"
)

// DefaultDialTimeout bounds a Dial whose context has no earlier end.
const DefaultDialTimeout = 10 * time.Second

const maxAddresses = 8

// DialConfig is what a grant says, and who dials.
type DialConfig struct {
	Addresses []netip.AddrPort // of the host, the best one first
	Host      key.ID
	Pin       [sha256.Size]byte // SHA-256 of the host's SubjectPublicKeyInfo
	Session   key.ID
	// Knock makes a fresh host knock for the session. It is called for each knock
	// as long as the connection lives; nil or empty means that none can be made.
	Knock func() []byte

	Certificate tls.Certificate // the device's own
	Roots       *x509.CertPool  // that the host's certificate chains to

	Timeout   time.Duration    // 0: DefaultDialTimeout
	Idle      time.Duration    // without an answer, while awake; 0: DefaultIdle
	KeepAlive time.Duration    // 0: DefaultKeepAlive
	Now       func() time.Time // for certificates; nil: time.Now
}

// Conn is the client's end of a tunnel. Its methods may be called concurrently.
type Conn struct {
	quic      *quic.Conn
	transport *quic.Transport
	gate      *Gate
	aside     *aside
	session   key.ID
	flows     *flows
	since     time.Time
	pulse     *pulse
	running   sync.WaitGroup
	closed    sync.Once
}

// Dial knocks at the host and connects to it, at the first of its addresses that
// answers. It returns when the host has proved who it is; the host may still
// refuse the client, which the first stream or [Conn.Err] tells. Errors wrap
// ErrNoAnswer, ErrVerify, ErrRefused or the cause of ctx.
func Dial(ctx context.Context, c DialConfig) (*Conn, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	// One unconnected socket for both families: it goes with the machine to
	// another network by itself.
	gate, err := Listen(netip.AddrPort{}, nil)
	if err != nil {
		return nil, err
	}
	gate.watch, gate.aside = newWatch(c.Knock), newAside(gate)
	for _, a := range c.Addresses {
		gate.Admit(a, c.Host)
	}
	d := &dialer{DialConfig: c, gate: gate, transport: &quic.Transport{Conn: gate}}
	conn, err := d.run(ctx)
	if err != nil {
		d.transport.Close()
		gate.Close()
		return nil, fmt.Errorf("connect to host %v: %w", c.Host, err)
	}
	gate.watch.connected()
	gate.watch.conn.Store(conn)
	tunnel := &Conn{
		quic: conn, transport: d.transport, gate: gate, aside: gate.aside, session: c.Session,
		flows: newFlows(conn, 0, new(flowCounts)), since: time.Now(),
	}
	tunnel.pulse = &pulse{
		watch: gate.watch, gate: gate, conn: conn, lost: orDefault(c.Idle, lostAfter), changed: make(chan struct{}, 1),
		peer: func() *peer { return gate.admitted(tunnel.Address()) },
	}
	tunnel.running.Go(tunnel.pulse.run)
	tunnel.running.Go(func() { tunnel.aside.open(conn) })
	return tunnel, nil
}

func (c *DialConfig) validate() error {
	if len(c.Addresses) == 0 || len(c.Addresses) > maxAddresses {
		return fmt.Errorf("%w: %d of them", ErrNoAddress, len(c.Addresses))
	}
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("%w: %v", ErrNoAddress, a)
		}
	}
	if c.Host.IsZero() || c.Session.IsZero() || c.Roots == nil || c.Knock == nil ||
		len(c.Certificate.Certificate) == 0 || c.Pin == ([sha256.Size]byte{}) {
		return fmt.Errorf("%w: of a tunnel", ErrConfig)
	}
	return nil
}

// OpenStream opens one stream to the session's service and waits until the host
// has connected it. A refusal is a [*RefusedError]. It blocks while as many streams
// are open as the host allows.
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) {
	q, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", translate(err))
	}
	s := &Stream{quic: q, conn: c.quic}
	if err := c.ask(ctx, s, kindTCP); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return s, nil
}

// OpenFlow opens one UDP flow to the session's service and waits until the host
// has connected it. Else it is as [Conn.OpenStream].
func (c *Conn) OpenFlow(ctx context.Context) (*Flow, error) {
	if !c.quic.ConnectionState().SupportsDatagrams.Remote {
		return nil, fmt.Errorf("open flow: %w: it takes no datagrams", ErrProtocol)
	}
	q, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open flow: %w", translate(err))
	}
	s := &Stream{quic: q, conn: c.quic}
	p, err := c.flows.add(s) // first: datagrams may overtake the answer
	if err == nil {
		err = c.ask(ctx, s, kindUDP)
	}
	if err == nil && !c.flows.run(p.receive) {
		err = cause(c.quic.Context())
	}
	if err != nil {
		c.flows.remove(flowID(q.StreamID()))
		s.Reset()
		return nil, fmt.Errorf("open flow: %w", err)
	}
	return p, nil
}

// ask sends a new stream's header and waits for the answer. Without a yes, the
// stream is cut off.
func (c *Conn) ask(ctx context.Context, s *Stream, k kind) error {
	stop := context.AfterFunc(ctx, s.Reset)
	defer stop()
	_, err := s.Write(appendHeader(nil, k, c.session))
	if err == nil {
		err = readAnswer(s)
	}
	if err == nil && stop() {
		return nil
	}
	s.Reset()
	if ctx.Err() != nil {
		err = cause(ctx)
	}
	return err
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.quic.Context().Done() }

// Err returns why the connection has ended, nil while it lives. It wraps
// ErrRevoked, ErrExpired, ErrClosed, ErrShutdown, ErrDenied, ErrRefused, ErrLost or
// ErrProtocol; what the host had to say is in a [*ClosedError].
func (c *Conn) Err() error {
	if c.quic.Context().Err() == nil {
		return nil
	}
	return cause(c.quic.Context())
}

// Address returns the host's address that answered.
func (c *Conn) Address() netip.AddrPort {
	if a, ok := c.quic.RemoteAddr().(*net.UDPAddr); ok {
		return plain(a.AddrPort())
	}
	return netip.AddrPort{}
}

// Knock sends a fresh host knock at once, for callers that know of a change of
// network. Without it, the connection finds out by itself, when it hears nothing.
func (c *Conn) Knock() {
	select {
	case c.pulse.changed <- struct{}{}:
	default: // it was told already
	}
}

// Counters returns what the tunnel's socket has seen.
func (c *Conn) Counters() Counters { return c.gate.Counters() }

// FlowCounters returns which of the host's datagrams came to nothing.
func (c *Conn) FlowCounters() FlowCounters { return c.flows.counts.load() }

// CloseWithReason tells the host why, ends the connection with all its streams
// and closes the socket. It may be called more than once; the first call counts.
func (c *Conn) CloseWithReason(reason Reason, text string) error {
	var err error
	c.closed.Do(func() {
		closeConn(c.quic, reason, text)
		err = errors.Join(c.transport.Close(), c.gate.Close())
		c.flows.close()
		c.running.Wait()
		err = errors.Join(err, c.aside.close())
	})
	return err
}

// Close closes the connection as its user would.
func (c *Conn) Close() error { return c.CloseWithReason(ReasonClosed, "") }

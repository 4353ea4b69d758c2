package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// Limits of a server.
const (
	maxConnections   = 8               // of one session at once, handshakes included
	maxTogether      = 4               // of those, past their handshakes
	handshakeTimeout = 3 * time.Second // without a packet; twice that in all
	headerTimeout    = 5 * time.Second // from a stream's first byte to its header's last
	connectTimeout   = 10 * time.Second
)

// Peer is the client at the other end of a connection.
type Peer struct {
	Session     key.ID         // that its source was admitted for when it connected
	Source      netip.AddrPort // where it is now
	Identity    control.Identity
	Certificate *x509.Certificate
}

// ServerConfig is what the host decides.
type ServerConfig struct {
	// Certificate returns the host's own certificate; it is asked in each handshake.
	Certificate func() (*tls.Certificate, error)
	Roots       *x509.CertPool // that clients' certificates chain to

	// Reset marks the resets of connections that an earlier server on the same
	// address had: their clients learn at once that they are gone. Only sources that
	// the gate admits get one. Zero: there are none, and silence has to tell.
	Reset key.Subkey

	// Authorize judges each new connection. When it returns an error, the
	// connection is closed with ReasonDenied; a RefusedError's text is told.
	Authorize func(ctx context.Context, p Peer) error
	// Connect judges each new stream and connects it to its service. When it
	// returns a [*RefusedError], the client is told that; any other error reads as
	// StatusUnreachable. ctx ends with the connection or after 10 s, and is for
	// connecting only.
	Connect func(ctx context.Context, p Peer) (Duplex, error)

	// ConnectPacket judges each new UDP flow and connects it to its service: each
	// Read and Write of what it returns is one datagram. Its errors are told as
	// Connect's. Nil: the host has no UDP services.
	ConnectPacket func(ctx context.Context, p Peer) (net.Conn, error)

	Sleep      time.Duration // of a client, that its connection outlives; 0: DefaultSleep
	KeepAlive  time.Duration // 0: DefaultKeepAlive
	FlowIdle   time.Duration // silence that ends a UDP flow; 0: DefaultFlowIdle
	MaxStreams int64         // at once, of one connection; 0: DefaultMaxStreams
	MaxFlows   int           // at once, of one connection; 0: DefaultMaxFlows
	// MaxPerDevice and MaxServices bound the connections to services at once, UDP flows
	// among them: of one device (0: DefaultMaxPerDevice) and of all (0: no bound).
	MaxPerDevice, MaxServices int
	Now                       func() time.Time // for certificates; nil: time.Now
	Log                       *slog.Logger
}

// Server is the host's end of all tunnels.
type Server struct {
	config    ServerConfig
	gate      *Gate
	transport *quic.Transport
	listener  *quic.Listener
	flows     flowCounts // of all connections
	places    *places

	mu    sync.Mutex // guards what follows
	count map[key.ID]int
	conns map[key.ID][]*quic.Conn // of each session, the oldest first
}

// sessionKey is where a connection's context has its session.
type sessionKey struct{}

// NewServer starts QUIC on the gate, which stays its owner's to close, after Serve
// has returned.
func NewServer(g *Gate, c ServerConfig) (*Server, error) {
	if g == nil || c.Certificate == nil || c.Roots == nil || c.Authorize == nil ||
		c.Connect == nil || c.Log == nil {
		return nil, fmt.Errorf("%w: of a tunnel server", ErrConfig)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = DefaultMaxStreams
	}
	if c.MaxFlows <= 0 {
		c.MaxFlows = DefaultMaxFlows
	}
	if c.MaxPerDevice <= 0 {
		c.MaxPerDevice = DefaultMaxPerDevice
	}
	c.FlowIdle = orDefault(c.FlowIdle, DefaultFlowIdle)
	s := &Server{
		config: c, gate: g, places: newPlaces(c.MaxPerDevice, c.MaxServices),
		count: make(map[key.ID]int),
		conns: make(map[key.ID][]*quic.Conn),
	}
	s.transport = &quic.Transport{
		Conn:                             g,
		DisableVersionNegotiationPackets: true,
		ConnContext:                      s.arrive,
	}
	if !c.Reset.IsZero() {
		s.transport.StatelessResetKey = (*quic.StatelessResetKey)(c.Reset.AEADKey())
	}
	q := quicConfig(handshakeTimeout, c.Sleep, c.KeepAlive)
	q.MaxIncomingStreams = c.MaxStreams
	listener, err := s.transport.Listen(s.tls(), q)
	if err != nil {
		return nil, fmt.Errorf("listen for tunnels: %w", err)
	}
	s.listener = listener
	return s, nil
}

func (s *Server) tls() *tls.Config {
	t := tlsConfig(s.config.Now)
	t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return s.config.Certificate()
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	t.ClientCAs = s.config.Roots
	t.VerifyConnection = verifyClient(s.config.Roots, s.config.Now)
	return t
}

// arrive is called at a connection's first packet. It remembers the session and
// counts the connection, its handshake included.
func (s *Server) arrive(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	addr, ok := info.RemoteAddr.(*net.UDPAddr)
	if !ok {
		return nil, ErrDenied
	}
	session, ok := s.gate.Session(addr.AddrPort())
	if !ok { // revoked meanwhile
		return nil, ErrDenied
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[session] >= maxConnections {
		return nil, ErrBusy
	}
	s.count[session]++
	context.AfterFunc(ctx, func() { s.leave(session) })
	return context.WithValue(ctx, sessionKey{}, session), nil
}

func (s *Server) leave(session key.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[session]--; s.count[session] <= 0 {
		delete(s.count, session)
	}
}

// Serve accepts connections until ctx ends. Then it closes them all with
// ReasonShutdown, and returns when their last stream has ended. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	var serving sync.WaitGroup
	var err error
	for {
		var conn *quic.Conn
		if conn, err = s.listener.Accept(ctx); err != nil {
			break
		}
		serving.Go(func() { s.serve(conn) })
	}
	s.closeAll(ReasonShutdown, "the host's agent is stopping")
	closeErr := s.transport.Close()
	serving.Wait()
	if ctx.Err() != nil {
		return closeErr
	}
	return fmt.Errorf("accept tunnel: %w", err)
}

// serve runs one connection to its end.
func (s *Server) serve(conn *quic.Conn) {
	ctx := conn.Context()
	session, _ := ctx.Value(sessionKey{}).(key.ID)
	if !s.add(session, conn) {
		closeConn(conn, ReasonShutdown, "the host's agent is stopping")
		return
	}
	defer s.remove(session, conn)
	peer, err := s.peer(conn, session)
	if err == nil {
		err = s.config.Authorize(ctx, peer)
	}
	log := s.config.Log.With(logkeys.Session, session, logkeys.Device, peer.Identity.ID)
	if err != nil {
		log.Warn("tunnel refused", logkeys.Source, peer.Source, logkeys.Error, err)
		closeConn(conn, ReasonDenied, refusal(err).Text)
		return
	}
	log.Info("tunnel connected", logkeys.Source, peer.Source)
	a := &accepted{server: s, ctx: ctx, conn: conn, session: session, device: peer.Identity.ID,
		refusals: &refusals{log: log}, log: log}
	a.flows = newFlows(conn, s.config.MaxFlows, &s.flows)
	var streams sync.WaitGroup
	for {
		var stream *quic.Stream
		if stream, err = conn.AcceptStream(ctx); err != nil {
			break
		}
		streams.Go(func() { a.stream(&Stream{quic: stream, conn: conn}) })
	}
	streams.Wait()
	a.flows.close()
	a.refusals.flush()
	log.Info("tunnel ended", logkeys.Reason, translate(err).Error())
}

// peer tells who is at the other end, at this moment.
func (s *Server) peer(conn *quic.Conn, session key.ID) (Peer, error) {
	p := Peer{Session: session}
	if addr, ok := conn.RemoteAddr().(*net.UDPAddr); ok {
		p.Source = plain(addr.AddrPort())
	}
	certs := conn.ConnectionState().TLS.PeerCertificates
	if len(certs) == 0 || session.IsZero() {
		return p, ErrVerify // cannot be: TLS and arrive insist on both
	}
	identity, err := control.IdentityFromCertificate(certs[0])
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrVerify, err)
	}
	p.Certificate, p.Identity = certs[0], identity
	return p, nil
}

// refusal turns any error into what the client is told: nothing about the host
// that Authorize or Connect has not put into words for it.
func refusal(err error) *RefusedError {
	if r, ok := errors.AsType[*RefusedError](err); ok {
		return r
	}
	return &RefusedError{Status: StatusUnreachable, Text: "the host cannot reach the service"}
}

// CloseSession closes the connections of a session and returns how many there
// were. When it returns, the reason is on its way: revoke the session's sources
// after it. Connections that are still shaking hands are Authorize's to refuse.
func (s *Server) CloseSession(session key.ID, reason Reason, text string) int {
	s.mu.Lock()
	conns := slices.Clone(s.conns[session])
	s.mu.Unlock()
	for _, conn := range conns {
		closeConn(conn, reason, text)
	}
	return len(conns)
}

// FlowCounters returns which of the clients' datagrams came to nothing.
func (s *Server) FlowCounters() FlowCounters { return s.flows.load() }

// closeAll closes every connection and lets no further one in.
func (s *Server) closeAll(reason Reason, text string) {
	s.mu.Lock()
	all := s.conns
	s.conns = nil
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, conns := range all {
		for _, conn := range conns {
			closing.Go(func() { closeConn(conn, reason, text) })
		}
	}
	closing.Wait()
}

// add notes a connection that has shaken hands. Of a session there are few at once: a
// client that comes again has left the older ones behind, without a word perhaps.
func (s *Server) add(session key.ID, conn *quic.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	conns := append(s.conns[session], conn)
	for _, left := range conns[:max(0, len(conns)-maxTogether)] {
		go closeConn(left, ReasonShutdown, "newer connections took its place") // returns at once, or when QUIC has a moment
	}
	s.conns[session] = conns
	return true
}

func (s *Server) remove(session key.ID, conn *quic.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.conns[session], conn); i >= 0 {
		s.conns[session] = slices.Delete(s.conns[session], i, i+1)
	}
	if len(s.conns[session]) == 0 {
		delete(s.conns, session)
	}
}

func closeConn(conn *quic.Conn, reason Reason, text string) {
	_ = conn.CloseWithError(quic.ApplicationErrorCode(reason), clip(text, maxAnswerText))
}

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

	Idle       time.Duration    // 0: DefaultIdle
	KeepAlive  time.Duration    // 0: DefaultKeepAlive
	MaxStreams int64            // at once, of one connection; 0: DefaultMaxStreams
	Now        func() time.Time // for certificates; nil: time.Now
	Log        *slog.Logger
}

// Server is the host's end of all tunnels.
type Server struct {
	config    ServerConfig
	gate      *Gate
	transport *quic.Transport
	listener  *quic.Listener

	mu    sync.Mutex // guards what follows
	count map[key.ID]int
	conns map[key.ID]map[*quic.Conn]struct{}
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
	s := &Server{
		config: c, gate: g,
		count: make(map[key.ID]int),
		conns: make(map[key.ID]map[*quic.Conn]struct{}),
	}
	s.transport = &quic.Transport{
		Conn:                             g,
		DisableVersionNegotiationPackets: true,
		ConnContext:                      s.arrive,
	}
	if !c.Reset.IsZero() {
		s.transport.StatelessResetKey = (*quic.StatelessResetKey)(c.Reset.AEADKey())
	}
	q := quicConfig(handshakeTimeout, c.Idle, c.KeepAlive)
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
	var streams sync.WaitGroup
	flows := newFlows()
	streams.Go(func() { flows.receive(conn) })
	for {
		var stream *quic.Stream
		if stream, err = conn.AcceptStream(ctx); err != nil {
			break
		}
		streams.Go(func() { s.stream(ctx, conn, flows, stream, session, log) })
	}
	streams.Wait()
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

// stream connects one stream and carries it.
func (s *Server) stream(ctx context.Context, conn *quic.Conn, flows *flows, q *quic.Stream, session key.ID,
	log *slog.Logger) {
	stream := &Stream{quic: q, conn: conn}
	backend, packets, err := s.connect(ctx, conn, stream, session)
	if packets != nil {
		s.flow(ctx, conn, flows, stream, packets, log)
		return
	}
	if err != nil {
		log.Info("stream refused", logkeys.Error, err)
		// The answer must arrive although nobody reads the rest of the request.
		_, _ = stream.Write(appendAnswer(nil, refusal(err)))
		stream.Close()
		return
	}
	if _, err := stream.Write(appendAnswer(nil, nil)); err != nil {
		reset(backend)
		stream.Reset()
		return
	}
	in, out, err := Copy(ctx, stream, backend)
	if err != nil {
		log.Debug("stream broke", logkeys.Error, err)
	}
	log.Debug("stream ended", logkeys.Bytes, in+out)
}

// flow carries a UDP flow that is connected.
func (s *Server) flow(ctx context.Context, conn *quic.Conn, flows *flows, stream *Stream, target net.Conn,
	log *slog.Logger) {
	flow := flows.begin(conn, stream)
	if _, err := stream.Write(appendAnswer(nil, nil)); err != nil {
		flow.Close()
		target.Close()
		return
	}
	in, out := CopyPackets(ctx, flow, target)
	log.Debug("flow ended", logkeys.Bytes, in+out)
}

// connect returns what the stream is for: a connection, or a UDP flow's target.
func (s *Server) connect(ctx context.Context, conn *quic.Conn, stream *Stream,
	session key.ID) (Duplex, net.Conn, error) {
	if err := stream.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return nil, nil, err
	}
	kind, asked, err := readHeader(stream)
	if err != nil {
		return nil, nil, &RefusedError{Status: StatusMalformed, Text: "no stream header of this version"}
	}
	if asked != session {
		return nil, nil, &RefusedError{Status: StatusDenied, Text: "another session's stream"}
	}
	if err := stream.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	peer, err := s.peer(conn, session)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if kind == headerFlow {
		target, err := s.connectPacket(ctx, peer)
		return nil, target, err
	}
	backend, err := s.config.Connect(ctx, peer)
	if err == nil && backend == nil {
		err = ErrUnreachable
	}
	return backend, nil, err
}

func (s *Server) connectPacket(ctx context.Context, p Peer) (net.Conn, error) {
	if s.config.ConnectPacket == nil {
		return nil, &RefusedError{Status: StatusDenied, Text: "this host has no UDP services"}
	}
	target, err := s.config.ConnectPacket(ctx, p)
	if err == nil && target == nil {
		err = ErrUnreachable
	}
	return target, err
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
	conns := make([]*quic.Conn, 0, len(s.conns[session]))
	for conn := range s.conns[session] {
		conns = append(conns, conn)
	}
	s.mu.Unlock()
	for _, conn := range conns {
		closeConn(conn, reason, text)
	}
	return len(conns)
}

// closeAll closes every connection and lets no further one in.
func (s *Server) closeAll(reason Reason, text string) {
	s.mu.Lock()
	all := s.conns
	s.conns = nil
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, conns := range all {
		for conn := range conns {
			closing.Go(func() { closeConn(conn, reason, text) })
		}
	}
	closing.Wait()
}

func (s *Server) add(session key.ID, conn *quic.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	if s.conns[session] == nil {
		s.conns[session] = make(map[*quic.Conn]struct{})
	}
	s.conns[session][conn] = struct{}{}
	return true
}

func (s *Server) remove(session key.ID, conn *quic.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns[session], conn)
	if len(s.conns[session]) == 0 {
		delete(s.conns, session)
	}
}

func closeConn(conn *quic.Conn, reason Reason, text string) {
	_ = conn.CloseWithError(quic.ApplicationErrorCode(reason), clip(text, maxAnswerText))
}

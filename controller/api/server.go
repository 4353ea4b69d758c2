package api

import (
	"bytes"
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
	"github.com/quic-go/quic-go/http3"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	handshakeTimeout = 5 * time.Second
	// A peer that was killed is missed after this long: three keep-alives unanswered.
	idleTimeout      = 12 * time.Second
	keepAlive        = 4 * time.Second
	maxStreams       = 16       // requests at once on one connection
	maxControlUni    = 8        // HTTP/3 needs three
	streamWindow     = 1 << 20  // bytes
	connectionWindow = 2 << 20  // bytes
	maxHeader        = 16 << 10 // bytes
	shutdownTimeout  = 3 * time.Second
)

// Application error codes of a control connection that is ended by the server.
const (
	codeDenied quic.ApplicationErrorCode = 0x101 // not this identity
	codeEnded  quic.ApplicationErrorCode = 0x102 // revoked, replaced or shutting down
)

// Server is the control API. Serve may be called once.
type Server struct {
	// Gate is the control port's socket: QUIC sees nothing of a source that has
	// not knocked.
	Gate   net.PacketConn
	Door   Door
	Broker Broker
	// Certificate returns the controller's own, for each handshake anew.
	Certificate func() *tls.Certificate
	Log         *slog.Logger
}

// Serve accepts connections until ctx ends, then ends them all and returns when
// their handlers are done. It does not close the gate.
func (s *Server) Serve(ctx context.Context) error {
	transport := &quic.Transport{Conn: s.Gate, DisableVersionNegotiationPackets: true}
	listener, err := transport.Listen(s.tlsConfig(), quicConfig())
	if err != nil {
		return fmt.Errorf("listen for control connections: %w", err)
	}
	var connections sync.WaitGroup
	for {
		conn, err := listener.Accept(ctx)
		if err != nil {
			connections.Wait()
			return errors.Join(unlessDone(ctx, err), listener.Close(), transport.Close())
		}
		connections.Go(func() { s.serve(ctx, conn) })
	}
}

func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept control connection: %w", err)
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{control.ALPN},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.Certificate(), nil
		},
		// A joiner has no certificate yet, and one whose time is over may still be
		// renewed. The chain is verified in Authenticate, before any request is read;
		// TLS itself makes sure that the peer holds the leaf's key.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // a resumed session would not show its certificate anew
	}
}

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 idleTimeout,
		KeepAlivePeriod:                keepAlive,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxControlUni,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     connectionWindow,
	}
}

// serve ties the connection to the knock that let it in, and answers its requests.
func (s *Server) serve(ctx context.Context, conn *quic.Conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { conn.CloseWithError(codeEnded, endText(ctx)) })
	defer stop()
	source := addrPort(conn.RemoteAddr())
	identity, gone, err := s.Door.Connected(source, func(err error) { cancel(err) })
	if err != nil {
		conn.CloseWithError(codeDenied, "")
		return
	}
	defer gone()
	caller, err := s.Authenticate(identity, conn.ConnectionState().TLS.PeerCertificates)
	if err != nil {
		s.Log.Warn("control connection refused", logkeys.Identity, identity, logkeys.Source, source,
			logkeys.Error, err)
		conn.CloseWithError(codeDenied, err.Error())
		return
	}
	caller.Source = source
	s.Log.Debug("control connection", logkeys.Identity, identity, logkeys.Source, source)
	server := &http3.Server{Handler: s.handler(ctx, caller), MaxHeaderBytes: maxHeader}
	err = server.ServeQUICConn(conn) // returns when all handlers have
	s.Log.Debug("control connection ended", logkeys.Identity, identity, logkeys.Error, err)
}

func endText(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "the controller is shutting down"
}

// Authenticate demands that the certificate names the identity whose knock opened
// the way, so that a stolen certificate or a stolen knock secret alone is worth
// nothing. A joiner has its token only, and gets no further than to enrol.
func (s *Server) Authenticate(identity key.ID, chain []*x509.Certificate) (Caller, error) {
	caller, ok := s.Broker.Who(identity)
	if !ok {
		return Caller{}, errUnknown
	}
	if caller.Joining {
		return caller, nil
	}
	if len(chain) == 0 {
		return Caller{}, errNoCertificate
	}
	leaf, now := chain[0], time.Now()
	if now.After(leaf.NotAfter) {
		caller.Expired, now = true, leaf.NotAfter
	}
	got, err := control.VerifyPeer(chain, s.Broker.Roots(), now, caller.Role)
	if err != nil {
		return Caller{}, err
	}
	if got.ID != identity || got.Authority != s.Broker.Authority() {
		return Caller{}, errOtherIdentity
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, caller.PublicKey) {
		return Caller{}, errReplacedKey
	}
	return caller, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := udp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

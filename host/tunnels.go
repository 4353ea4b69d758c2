package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/internal/tunnel"
)

// newServer returns the host's end of all tunnels. What sessions say decides about
// each connection and about each of its streams.
func newServer(a *agent) (*tunnel.Server, error) {
	return tunnel.NewServer(a.gate, tunnel.ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return a.identity.TLSCertificate(), nil },
		Roots:       a.identity.Roots(),
		Reset:       a.identity.ResetKey(),
		Now:         a.clock.now,
		Log:         a.Log,
		MaxServices: maxServices(),
		Authorize: func(ctx context.Context, p tunnel.Peer) error {
			if err := a.sessions.attach(ctx, p.Session, p.Identity); err != nil {
				return refuse(err)
			}
			return nil
		},
		Connect: func(ctx context.Context, p tunnel.Peer) (tunnel.Duplex, error) {
			c, err := a.sessions.connect(ctx, p.Session, p.Identity)
			if err != nil {
				a.Log.Info("stream not connected", logkeys.Session, p.Session, logkeys.Error, err)
				return nil, refuse(err)
			}
			return c, nil
		},
		ConnectPacket: func(ctx context.Context, p tunnel.Peer) (net.Conn, error) {
			c, err := a.sessions.connectPacket(ctx, p.Session, p.Identity)
			if err != nil {
				a.Log.Info("flow not connected", logkeys.Session, p.Session, logkeys.Error, err)
				return nil, refuse(err)
			}
			return c, nil
		},
	})
}

// refuse adds what the client is told to what the log says: that the session is
// not its own or over, but nothing of the host's network.
func refuse(err error) error {
	answer := &tunnel.RefusedError{
		Status: tunnel.StatusUnreachable, Text: "the host cannot reach the service",
	}
	switch {
	case errors.Is(err, errExpired), errors.Is(err, errNoSession):
		answer = &tunnel.RefusedError{Status: tunnel.StatusDenied, Text: "the session is over"}
	case errors.Is(err, errNotYours), errors.Is(err, errRole):
		answer = &tunnel.RefusedError{
			Status: tunnel.StatusDenied, Text: "this certificate is not for this session",
		}
	}
	return fmt.Errorf("%w (%w)", err, answer)
}

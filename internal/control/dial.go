package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/postern-sdp/postern/internal/lossy"
	"github.com/postern-sdp/postern/spa"
)

// Timing of the control connection.
const (
	handshakeTimeout = 5 * time.Second
	// A peer that was killed is missed after this long: three keep-alives unanswered.
	idleTimeout = 12 * time.Second
	keepAlive   = 4 * time.Second
	reknock     = 300 * time.Millisecond
	// headStart of one address over the next: the controller lets in the one that
	// knocked last, so that two must not often try at once.
	headStart = time.Second
)

// DialConfig says how to come to a controller's control API.
type DialConfig struct {
	// Knock is who knocks, and where. Kind is set by Dial.
	Knock KnockConfig
	// Certificate is the caller's own; nil for an enrolment, which has none yet.
	Certificate *tls.Certificate
	// Roots is the authority the caller is enrolled at; nil for an enrolment.
	Roots *x509.CertPool
	// RootPin stands in for Roots at an enrolment: the SHA-256 of the public key of
	// the root that the controller must present at the end of its chain.
	RootPin [32]byte
}

// DialConfig returns the way in that a join token gives.
func (t JoinToken) DialConfig() DialConfig {
	return DialConfig{
		Knock: KnockConfig{
			Controller: t.controller(), ID: t.Token, Secret: t.Knock,
		},
		RootPin: t.RootPin,
	}
}

func (t JoinToken) controller() Controller {
	return Controller{Name: t.Controller, Addresses: t.Addresses, PublicKey: t.PublicKey}
}

// Dial knocks, and connects to the control API that the knock opened. The other
// end is the controller that the grant names, or the connection fails.
//
// A refused or unanswered knock fails as [Knock] says; [ErrNoControl] is a grant
// whose addresses stay silent.
func Dial(ctx context.Context, c DialConfig) (*Client, error) {
	c.Knock.Kind = spa.KindControl
	if c.Knock.Now == nil {
		c.Knock.Now = time.Now
	}
	answer, err := Knock(ctx, c.Knock)
	if err != nil {
		return nil, err
	}
	if answer.Grant == nil {
		return nil, ErrAnswer
	}
	d := &dialer{DialConfig: c, answer: answer}
	l, err := d.race(ctx, candidates(answer))
	if err != nil {
		return nil, err
	}
	return newClient(l, answer, c.Knock.ID), nil
}

// candidates are the granted addresses and, for a controller behind a port
// forwarding that does not know its outer address, the one that answered. Those of the
// family that the knock came through by are first.
func candidates(a Answer) []netip.AddrPort {
	all := slices.Clone(a.Grant.Addresses)
	outer := netip.AddrPortFrom(a.Server.Addr(), all[0].Port())
	if !slices.Contains(all, outer) {
		all = append(all, outer)
	}
	return SameFamilyFirst(all, a.Server.Addr())
}

// SameFamilyFirst returns all with those ahead that are of by's family, of which it is
// known that it works here: IPv6 often is there and leads nowhere.
func SameFamilyFirst(all []netip.AddrPort, by netip.Addr) []netip.AddrPort {
	same, other := []netip.AddrPort{}, []netip.AddrPort{}
	for _, a := range all {
		if a.Addr().Is4() == by.Is4() {
			same = append(same, a)
		} else {
			other = append(other, a)
		}
	}
	return append(same, other...)
}

type dialer struct {
	DialConfig
	answer Answer
}

// link is one QUIC connection with its own socket.
type link struct {
	socket    *net.UDPConn
	transport *quic.Transport
	conn      *quic.Conn
}

func (l *link) close(code quic.ApplicationErrorCode, text string) {
	if l.conn != nil {
		l.conn.CloseWithError(code, text)
	}
	l.transport.Close()
	l.socket.Close()
}

// race tries the addresses, each a little after the one before, and keeps the
// first connection. All attempts are over when it returns.
func (d *dialer) race(ctx context.Context, addresses []netip.AddrPort) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		link *link
		err  error
	}
	results := make(chan result, len(addresses))
	var attempts sync.WaitGroup
	for i, address := range addresses {
		attempts.Go(func() {
			select {
			case <-time.After(time.Duration(i) * headStart):
				l, err := d.attempt(ctx, address)
				results <- result{l, err}
			case <-ctx.Done():
				results <- result{nil, context.Cause(ctx)}
			}
		})
	}
	var winner *link
	var faults []error
	for range addresses {
		r := <-results
		switch {
		case r.err != nil:
			faults = append(faults, r.err)
		case winner == nil:
			winner = r.link
			cancel()
		default:
			r.link.close(0, "")
		}
	}
	attempts.Wait()
	if winner == nil {
		return nil, errors.Join(faults...)
	}
	return winner, nil
}

func (d *dialer) attempt(ctx context.Context, address netip.AddrPort) (*link, error) {
	network := "udp6"
	if address.Addr().Is4() {
		network = "udp4"
	}
	socket, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, fmt.Errorf("open control connection: %w", err)
	}
	l := &link{socket: socket, transport: &quic.Transport{Conn: lossy.Conn{UDPConn: socket}}}
	l.conn, err = d.handshake(ctx, l.transport, net.UDPAddrFromAddrPort(address))
	if err != nil {
		l.close(0, "")
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			err = ErrNoControl
		}
		return nil, fmt.Errorf("open control connection to %s: %w", address, err)
	}
	return l, nil
}

// handshake sends the host knock, and the Initial right behind it. As either may
// be lost, fresh host knocks follow until the handshake is through.
func (d *dialer) handshake(ctx context.Context, t *quic.Transport, to net.Addr) (*quic.Conn, error) {
	if err := d.hostKnock(t, to); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	var again sync.WaitGroup
	again.Go(func() {
		tick := time.NewTicker(reknock)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = d.hostKnock(t, to) // the handshake's own deadline judges
			case <-done:
				return
			}
		}
	})
	conn, err := t.Dial(ctx, to, d.tlsConfig(), quicConfig())
	close(done)
	again.Wait()
	return conn, err
}

func (d *dialer) hostKnock(t *quic.Transport, to net.Addr) error {
	g := d.answer.Grant
	_, err := t.WriteTo(spa.SealHostKnock(g.Knock, g.Host, g.Session, d.now()), to)
	return err
}

// now is the controller's clock.
func (d *dialer) now() time.Time { return d.Knock.Now().Add(d.answer.Offset) }

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: handshakeTimeout,
		MaxIdleTimeout:       idleTimeout,
		KeepAlivePeriod:      keepAlive,
		MaxIncomingStreams:   -1, // the controller opens none
	}
}

func (d *dialer) tlsConfig() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{ALPN},
		Time:       d.now,
		// Certificates name identities and not DNS hosts: verify does all that the
		// standard check does, and more.
		InsecureSkipVerify: true,
		VerifyConnection:   d.verify,
	}
	if d.Certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return d.Certificate, nil
		}
	}
	return c
}

// verify accepts the granted controller and nobody else.
func (d *dialer) verify(state tls.ConnectionState) error {
	chain := state.PeerCertificates
	roots := d.Roots
	if roots == nil {
		roots = pinnedRoot(chain, d.RootPin)
	}
	got, err := VerifyPeer(chain, roots, d.now(), RoleController)
	if err != nil {
		return err
	}
	g := d.answer.Grant
	if got.ID != g.Host || PublicKeyPin(chain[0]) != g.Pin {
		return ErrOtherEnd
	}
	return nil
}

// pinnedRoot returns the certificates of the chain, the leaf apart, whose public
// key has that pin.
func pinnedRoot(chain []*x509.Certificate, pin [32]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range chain[min(1, len(chain)):] {
		if PublicKeyPin(c) == pin {
			pool.AddCert(c)
		}
	}
	return pool
}

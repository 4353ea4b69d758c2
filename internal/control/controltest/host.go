package controltest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// Host is a tunnel end whose one service is an echo.
type Host struct {
	ID key.ID

	t           testing.TB
	controller  *Controller
	certificate *tls.Certificate
	table       *spa.Table[key.HostKnock]
	address     netip.AddrPort

	mu     sync.Mutex // guards what follows
	target string     // of the one service
	access control.Access
	direct []netip.AddrPort // told for a direct service
	ahead  []netip.AddrPort // told ahead of the host's own address
	bound  netip.AddrPort   // where the last host knock came from
	secret map[key.ID]key.HostKnock
	past   map[key.ID]key.HostKnock // secrets of all sessions ever
	timers map[key.ID]*time.Timer
	gate   *tunnel.Gate
	server *tunnel.Server
	stop   func()
}

// AddHost starts a host of the controller's, with an echo service behind it.
func (c *Controller) AddHost() *Host {
	c.t.Helper()
	id := key.NewID()
	h := &Host{
		ID: id, t: c.t, controller: c, target: echo(c.t), table: spa.NewTable[key.HostKnock](time.Now()),
		address: netip.MustParseAddrPort("127.0.0.1:0"),
		secret:  map[key.ID]key.HostKnock{}, past: map[key.ID]key.HostKnock{},
		timers: map[key.ID]*time.Timer{},
	}
	h.certificate = c.Authority.Server(control.RoleHost, id, time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour))
	h.Start()
	c.t.Cleanup(h.Stop)
	c.Set(func(c *Controller) { c.Host = h })
	return h
}

// SetTarget moves the service.
func (h *Host) SetTarget(target string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.target = target
}

// SetPacketTarget makes the service a UDP service at target.
func (h *Host) SetPacketTarget(target string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.target, h.access.Transport = target, control.TransportUDP
}

// SetDirect has the service at these addresses, and reached without a tunnel.
func (h *Host) SetDirect(access control.Access, at ...netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	access.Mode = control.ModeDirect
	h.access, h.direct = access, at
}

// TellFirst has clients told of another address ahead of the host's own.
func (h *Host) TellFirst(at netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead = []netip.AddrPort{at}
}

// Bound is where the last host knock came from: what a direct service is open to.
func (h *Host) Bound() netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bound
}

// Start begins to serve, at the same port as before.
func (h *Host) Start() {
	h.t.Helper()
	receiver := spa.NewHostKnockReceiver(h.ID, h.table, replay.NewMemory())
	ready := make(chan struct{})
	var gate *tunnel.Gate
	gate, err := tunnel.Listen(h.address, func(datagram []byte, source, _ netip.AddrPort) bool {
		<-ready
		session, reason := receiver.Receive(datagram, h.controller.Now())
		if reason == spa.ReasonOK {
			h.mu.Lock()
			h.bound = source
			h.mu.Unlock()
			gate.Admit(source, session)
		}
		return reason == spa.ReasonOK
	})
	if err != nil {
		h.t.Fatal(err)
	}
	close(ready)
	server, err := tunnel.NewServer(gate, tunnel.ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return h.certificate, nil },
		Roots:       h.controller.Authority.Pool(),
		Authorize: func(_ context.Context, p tunnel.Peer) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if _, known := h.secret[p.Session]; !known || p.Identity.ID != h.controller.device {
				return errors.New("not yours")
			}
			return nil
		},
		Connect: func(ctx context.Context, _ tunnel.Peer) (tunnel.Duplex, error) {
			h.mu.Lock()
			target := h.target
			h.mu.Unlock()
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", target)
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
		ConnectPacket: func(ctx context.Context, _ tunnel.Peer) (net.Conn, error) {
			h.mu.Lock()
			target := h.target
			h.mu.Unlock()
			var d net.Dialer
			return d.DialContext(ctx, "udp", target)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ctx) }) // ends with Stop
	h.mu.Lock()
	defer h.mu.Unlock()
	h.address, h.gate, h.server = gate.Addr(), gate, server
	h.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		gate.Close()
	})
}

// Stop ends all tunnels, as a restarting agent does, and forgets the sessions.
func (h *Host) Stop() {
	h.mu.Lock()
	stop := h.stop
	for id, timer := range h.timers {
		timer.Stop()
		h.table.Remove(id)
	}
	h.secret, h.timers = map[key.ID]key.HostKnock{}, map[key.ID]*time.Timer{}
	h.mu.Unlock()
	stop()
}

// End ends a session for a reason.
func (h *Host) End(session key.ID, reason tunnel.Reason) {
	h.mu.Lock()
	server := h.server
	delete(h.secret, session)
	h.mu.Unlock()
	h.table.Remove(session)
	server.CloseSession(session, reason, "")
}

// Sessions returns the sessions that are open.
func (h *Host) Sessions() []key.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []key.ID
	for id := range h.secret {
		all = append(all, id)
	}
	return all
}

// open opens or renews a session.
func (h *Host) open(session key.ID, length time.Duration) *spa.Grant {
	h.mu.Lock()
	defer h.mu.Unlock()
	secret, known := h.secret[session]
	if !known {
		secret = key.NewHostKnock()
		h.secret[session], h.past[session] = secret, secret
		h.table.Put(session, secret)
	}
	if timer := h.timers[session]; timer != nil {
		timer.Stop()
	}
	h.timers[session] = time.AfterFunc(length, func() { h.End(session, tunnel.ReasonExpired) })
	g := &spa.Grant{
		Flags: h.access.Flags(), Session: session, Knock: secret, Host: h.ID, Pin: control.PublicKeyPin(h.certificate.Leaf),
		Addresses: append(slices.Clone(h.ahead), h.address),
	}
	if h.access.Mode == control.ModeDirect {
		g.Addresses, g.KnockPort = h.direct, h.address.Port()
	}
	return g
}

// ForgetDeadlines has sessions live on at the host when their time is over.
func (h *Host) ForgetDeadlines() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, timer := range h.timers {
		timer.Stop()
	}
}

// echo answers every connection with what it gets, and ends when it ends.
func echo(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // the client's end tells
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// Reopen lets a session that was ended in again, with the secret it had.
func (h *Host) Reopen(session key.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secret[session] = h.past[session]
	h.table.Put(session, h.past[session])
}

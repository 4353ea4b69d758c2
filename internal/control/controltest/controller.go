// Package controltest has a small controller and host for tests of the other side:
// the packets, certificates and QUIC are real and on loopback, and only the
// decisions are the test's.
package controltest

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
	"github.com/postern-sdp/postern/spa/replay"
)

// Controller answers knocks and serves a control API. Fields are set before the
// first knock, or under Set.
type Controller struct {
	ID        key.ID
	Authority *Authority
	Host      *Host // nil: every service's host is offline

	mu          sync.Mutex // guards what follows
	Skew        time.Duration
	Lose        int              // valid knocks to take and not answer
	LoseControl bool             // do so with all knocks for the control port
	Forgetful   bool             // about its sessions, as after a restart until hosts have told
	Delay       time.Duration    // before each answer
	Deny        *spa.Denial      // to access knocks
	Session     time.Duration    // length of sessions; default 1 h
	Until       time.Time        // no session is longer; zero for no such end
	Life        time.Duration    // of certificates; default 1 h
	Ahead       []netip.AddrPort // told in control grants ahead of the right address
	Certificate *tls.Certificate
	Pin         *[32]byte // told in control grants instead of the right one
	Knocks      []spa.Request
	Rejects     []spa.Reason
	live        map[key.ID]time.Time // sessions and their deadlines

	t        testing.TB
	private  key.ControllerPrivate
	knock    *net.UDPConn
	receiver *spa.KnockReceiver
	devices  *spa.Table[key.Knock]
	gate     *tunnel.Gate
	doors    *spa.Table[key.HostKnock]
	token    control.JoinToken
	anyToken bool
	used     []byte // public key that the token was redeemed with
	device   key.ID
	secret   key.Knock
	handlers map[string]http.HandlerFunc // by path, instead of the default
}

// Name is the controller's.
const Name = "test.example"

// New starts a controller on loopback; the test's end stops it.
func New(t testing.TB) *Controller {
	t.Helper()
	now := time.Now()
	c := &Controller{
		ID: key.NewID(), Authority: NewAuthority(t), t: t, private: key.NewControllerPrivate(),
		devices: spa.NewTable[key.Knock](now), doors: spa.NewTable[key.HostKnock](now),
		Session: time.Hour, Life: time.Hour, live: map[key.ID]time.Time{},
		device: key.NewID(), secret: key.NewKnock(), handlers: map[string]http.HandlerFunc{},
	}
	c.Certificate = c.Authority.Server(control.RoleController, c.ID, now.Add(-24*time.Hour), now.Add(24*time.Hour))
	c.devices.Put(c.device, c.secret)
	var err error
	c.receiver, err = spa.NewKnockReceiver(Name, c.private, c.devices, replay.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	if c.knock, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	hosts := spa.NewHostKnockReceiver(c.ID, c.doors, replay.NewMemory())
	c.gate, err = tunnel.Listen(netip.MustParseAddrPort("127.0.0.1:0"),
		func(datagram []byte, source, _ netip.AddrPort) bool {
			session, reason := hosts.Receive(datagram, c.Now())
			if reason == spa.ReasonOK {
				c.gate.Admit(source, session)
			}
			return reason == spa.ReasonOK
		})
	if err != nil {
		t.Fatal(err)
	}
	c.start()
	return c
}

func (c *Controller) start() {
	var running sync.WaitGroup
	running.Go(c.answerKnocks)
	transport := &quic.Transport{Conn: c.gate}
	listener, err := transport.Listen(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{control.ALPN}, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.Certificate, nil
		},
	}, &quic.Config{})
	if err != nil {
		c.t.Fatal(err)
	}
	server := &http3.Server{Handler: c}
	running.Go(func() { _ = server.ServeListener(listener) }) // ends with Close
	c.t.Cleanup(func() {
		server.Close()
		listener.Close()
		transport.Close()
		c.gate.Close()
		c.knock.Close()
		running.Wait()
	})
}

// Set changes the controller's fields while it runs.
func (c *Controller) Set(change func(c *Controller)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

// Handle replaces the answers of one path; a nil handler brings the default back.
func (c *Controller) Handle(path string, handler http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers[path] = handler
}

// Now is the controller's clock.
func (c *Controller) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.Skew)
}

// Roll makes the tables fit the controller's clock.
func (c *Controller) Roll() {
	c.devices.Roll(c.Now())
	c.doors.Roll(c.Now())
}

// Address is that of the knock port.
func (c *Controller) Address() string { return c.knock.LocalAddr().String() }

// Count returns how many knocks of a kind were accepted.
func (c *Controller) Count(kind spa.Kind) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, k := range c.Knocks {
		if k.Kind == kind {
			n++
		}
	}
	return n
}

// Live returns the number of sessions that were granted and not ended.
func (c *Controller) Live() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live)
}

// KnockConfig returns the way to knock as the one device there is.
func (c *Controller) KnockConfig() control.KnockConfig {
	return control.KnockConfig{
		Controller: control.Controller{
			Name: Name, Addresses: []string{c.Address()}, PublicKey: c.private.Public(),
		},
		ID: c.device, Secret: c.secret, Kind: spa.KindControl,
	}
}

// Token returns a join token for the device.
func (c *Controller) Token(role control.Role) control.JoinToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = control.JoinToken{
		Controller: Name, Addresses: []string{c.Address()}, PublicKey: c.private.Public(),
		Token: key.NewID(), Knock: key.NewKnock(), Role: role, Expires: time.Now().Add(time.Hour),
		RootPin: control.PublicKeyPin(c.Authority.Root),
	}
	c.devices.Put(c.token.Token, c.token.Knock)
	return c.token
}

func (c *Controller) answerKnocks() {
	buffer := make([]byte, 512)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for {
		n, source, err := c.knock.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		accepted, reason := c.receiver.Receive(buffer[:n], c.Now())
		c.mu.Lock()
		if reason != spa.ReasonOK {
			c.Rejects = append(c.Rejects, reason)
			c.mu.Unlock()
			continue
		}
		c.Knocks = append(c.Knocks, accepted.Request)
		lost, delay := c.Lose > 0, c.Delay
		if lost {
			c.Lose--
		}
		lost = lost || c.LoseControl && accepted.Request.Kind == spa.KindControl
		c.mu.Unlock()
		if lost {
			continue
		}
		waiting.Go(func() {
			if delay > 0 {
				<-time.After(delay)
			}
			sealed, err := accepted.SealReply(c.decide(accepted.Request))
			if err != nil {
				c.t.Errorf("seal reply: %v", err)
				return
			}
			_, _ = c.knock.WriteToUDPAddrPort(sealed, source) // a client that left is no fault
		})
	}
}

func (c *Controller) decide(r spa.Request) spa.Reply {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	deny := func(code spa.Code, text string) spa.Reply {
		return spa.Reply{Time: now, Denial: &spa.Denial{Code: code, Text: text}}
	}
	switch r.Kind {
	case spa.KindClose:
		delete(c.live, r.Session)
		return deny(spa.CodeClosed, "the session is ended")
	case spa.KindControl:
		g := c.controlGrantLocked(now)
		return spa.Reply{Time: now, Grant: g}
	}
	if c.Deny != nil {
		return spa.Reply{Time: now, Denial: c.Deny}
	}
	if c.Host == nil {
		return deny(spa.CodeHostOffline, "the service's host is not connected")
	}
	session := r.Session
	if deadline, known := c.live[session]; !session.IsZero() && (!known || c.Forgetful || now.After(deadline)) {
		return deny(spa.CodeUnknownSession, "no such session")
	}
	if session.IsZero() {
		session = key.NewID()
	}
	length := c.Session
	if r.Duration > 0 {
		length = min(length, r.Duration)
	}
	if !c.Until.IsZero() {
		length = min(length, c.Until.Sub(now))
	}
	c.live[session] = now.Add(length)
	g := c.Host.open(session, length)
	g.Deadline = now.Add(length)
	return spa.Reply{Time: now, Grant: g}
}

func (c *Controller) controlGrantLocked(now time.Time) *spa.Grant {
	g := &spa.Grant{
		Session: key.NewID(), Knock: key.NewHostKnock(), Host: c.ID, Deadline: now.Add(30 * time.Second),
		Pin:       control.PublicKeyPin(c.Certificate.Leaf),
		Addresses: append(slices.Clone(c.Ahead), c.gate.Addr()),
	}
	if c.Pin != nil {
		g.Pin = *c.Pin
	}
	c.doors.Put(g.Session, g.Knock)
	return g
}

// ServeHTTP is the control API.
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	handler := c.handlers[r.URL.Path]
	c.mu.Unlock()
	if handler != nil {
		handler(w, r)
		return
	}
	var out any
	var err error
	switch r.URL.Path {
	case control.PathEnroll:
		out, err = c.enroll(r)
	case control.PathRenew:
		out, err = c.renew(r)
	case control.PathServices:
		out = control.ServicesResponse{Device: "laptop", User: "ada", Services: []control.Service{
			{Name: "echo", Host: "box", Online: true, For: control.Duration(time.Hour)},
		}}
	case control.PathSessions:
		out = control.SessionsResponse{Sessions: []control.SessionInfo{}}
	}
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		out = control.ErrorResponse{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(out) // a client that left is no fault
}

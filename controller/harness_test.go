package controller

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const patience = 20 * time.Second

// house is a running controller on loopback, with real sockets, store and
// certificates, and without a firewall.
type house struct {
	t      *testing.T
	config Config
	fw     firewall.Firewall
	run    func(*Controller, context.Context) error
	logs   *logBuffer
	*Controller
	api.Administration
	addresses Addresses
	stop      func() error
}

// logBuffer is what the daemon logged, at debug level.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHouse(t *testing.T, change ...func(*house)) *house {
	t.Helper()
	testkit.NoLeak(t)
	dir := t.TempDir()
	h := &house{t: t, config: Defaults(), logs: new(logBuffer), run: (*Controller).Run}
	h.config.Name = "gate.test"
	h.config.State = filepath.Join(dir, "state")
	h.config.AdminSocket = filepath.Join(dir, "a.sock")
	h.config.Knock.Listen = testkit.FreePort(t)
	h.config.Control.Listen = testkit.FreePort(t)
	h.config.Control.Capture = false
	h.config.Firewall.Backend = BackendNone
	for _, f := range change {
		f(h)
	}
	if _, err := Init(h.config.State, h.config.Name); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("controller ended with %v", err)
		}
	})
	return h
}

func (h *house) start() {
	h.t.Helper()
	ready := make(chan Addresses, 1)
	c, err := New(Options{
		Config: h.config, Firewall: h.fw, Version: "test", Ready: func(a Addresses) { ready <- a },
		Log: slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.run(c, ctx) }() // ends with stop
	h.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(2 * patience):
			return errors.New("the controller does not end")
		}
	})
	select {
	case h.addresses = <-ready:
	case err := <-done:
		h.t.Fatalf("controller ended: %v", err)
	case <-time.After(patience):
		h.t.Fatal("controller is not ready")
	}
	h.Controller, h.Administration = c, api.NewAdmin(h.config.AdminSocket)
}

func (h *house) restart() {
	h.t.Helper()
	if err := h.stop(); err != nil {
		h.t.Fatal(err)
	}
	// The machines know the old ports.
	h.config.Knock.Listen, h.config.Control.Listen = h.addresses.Knock.String(), h.addresses.Control.String()
	h.start()
}

func (h *house) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.t.Cleanup(cancel)
	return ctx
}

func (h *house) token(role control.Role, user, name string) control.JoinToken {
	h.t.Helper()
	made, err := h.CreateToken(h.ctx(), api.TokenRequest{
		Role: role, User: user, Name: name, Expires: control.Duration(time.Hour),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	t, err := control.ParseJoinToken(made.Text)
	if err != nil {
		h.t.Fatal(err)
	}
	t.Addresses = []string{h.addresses.Knock.String()} // the kernel chose the port
	return t
}

func (h *house) enroll(role control.Role, user, name string) *control.Enrolled {
	h.t.Helper()
	e, err := control.Join(h.ctx(), control.JoinConfig{
		Token: h.token(role, user, name), Role: role, Name: name,
		Folder: filepath.Join(h.t.TempDir(), "identity"),
	})
	if err != nil {
		h.t.Fatalf("enrol %s: %v\n%s", name, err, h.logs)
	}
	return e
}

// agent plays a host's agent over the real control API. It acknowledges every
// order, unless told otherwise, and keeps them.
type agent struct {
	client *control.Client
	stream *control.AgentStream
	orders chan control.ToHost
	refuse chan string // answers the next order with an error
	silent chan struct{}
	done   chan struct{}
}

func (h *house) agent(e *control.Enrolled, sessions ...control.Session) *agent {
	h.t.Helper()
	return h.dialled(e, control.Hello{Version: "test", Port: 4042, Sessions: sessions})
}

// dialled is an agent that begins its stream with that hello.
func (h *house) dialled(e *control.Enrolled, hello control.Hello) *agent {
	h.t.Helper()
	client, err := e.Dial(h.ctx())
	if err != nil {
		h.t.Fatalf("agent's connection: %v\n%s", err, h.logs)
	}
	stream, err := client.Agent(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := stream.Send(control.FromHost{Hello: &hello}); err != nil {
		h.t.Fatal(err)
	}
	a := &agent{
		client: client, stream: stream, orders: make(chan control.ToHost, 100),
		refuse: make(chan string, 1), silent: make(chan struct{}), done: make(chan struct{}),
	}
	go a.run() // ends with the stream
	h.t.Cleanup(a.close)
	return a
}

func (a *agent) run() {
	defer close(a.done)
	for {
		order, err := a.stream.Recv()
		if err != nil {
			close(a.orders)
			return
		}
		ack := control.Ack{Number: order.Number}
		select {
		case ack.Error = <-a.refuse:
		default:
		}
		select {
		case <-a.silent:
		default:
			if a.stream.Send(control.FromHost{Ack: &ack}) != nil {
				continue
			}
		}
		a.orders <- order
	}
}

func (a *agent) close() {
	a.stream.Close()
	a.client.Close()
	<-a.done
}

func (a *agent) next(t *testing.T) control.ToHost {
	t.Helper()
	select {
	case order, ok := <-a.orders:
		if !ok {
			t.Fatal("the agent's stream ended")
		}
		return order
	case <-time.After(patience):
		t.Fatal("no order came")
	}
	return control.ToHost{}
}

// sync reads the Sync that starts each stream.
func (a *agent) sync(t *testing.T) []control.Session {
	t.Helper()
	order := a.next(t)
	if order.Sync == nil {
		t.Fatalf("the stream started with order %d, want a Sync", order.Number)
	}
	return order.Sync.Sessions
}

// scene is a house with a host, its connected agent, a service and a user with a
// device that has a grant for it.
type scene struct {
	*house
	hostID, device *control.Enrolled
	agent          *agent
}

func newScene(t *testing.T, change ...func(*house)) *scene {
	t.Helper()
	h := newHouse(t, change...)
	s := &scene{house: h, hostID: h.enroll(control.RoleHost, "", "web")}
	s.device = h.enroll(control.RoleClient, "ana", "laptop")
	s.addService("ssh")
	s.addGrant("ana", "ssh")
	s.agent = h.agent(s.hostID)
	s.agent.sync(t)
	return s
}

func (s *scene) addService(name string) {
	s.t.Helper()
	_, err := s.AddService(s.ctx(), api.ServiceRequest{Name: name, Host: "web", Target: "127.0.0.1:22"})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) addGrant(user, service string) {
	s.t.Helper()
	err := s.AddGrant(s.ctx(), api.GrantRequest{User: user, Service: service, For: control.Duration(time.Hour)})
	if err != nil {
		s.t.Fatal(err)
	}
}

// knock asks for a service, or renews session.
func (s *scene) knock(e *control.Enrolled, service string, session key.ID, d time.Duration) (control.Answer, error) {
	s.t.Helper()
	k := e.KnockConfig(spa.KindAccess)
	k.Service, k.Session, k.Duration = service, session, d
	return e.Knock(s.ctx(), k)
}

// open gets a session of ssh and its order.
func (s *scene) open() (*spa.Grant, control.Session) {
	s.t.Helper()
	answer, err := s.knock(s.device, "ssh", key.ID{}, 0)
	if err != nil {
		s.t.Fatalf("knock: %v\n%s", err, s.logs)
	}
	order := s.agent.next(s.t)
	if order.Open == nil {
		s.t.Fatalf("order %d does not open", order.Number)
	}
	return answer.Grant, *order.Open
}

// closed expects the order to close id next.
func (s *scene) closed(id key.ID) control.CloseHost {
	s.t.Helper()
	order := s.agent.next(s.t)
	if order.Close == nil || order.Close.Session != id {
		s.t.Fatalf("order %d is not the close of %s", order.Number, id)
	}
	return *order.Close
}

func wantDenied(t *testing.T, err error, code spa.Code) {
	t.Helper()
	var denied *control.DeniedError
	if !errors.As(err, &denied) || denied.Code != code {
		t.Errorf("got %v, want a denial with code %d", err, code)
	}
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

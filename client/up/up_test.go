package up

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/names"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// backend is a service that says its name, and counts who came.
type backend struct {
	t     *testing.T
	dials atomic.Int64
	fail  atomic.Bool
}

var errBackend = errors.New("nobody home")

func (b *backend) Dial(_ context.Context, service string) (net.Conn, error) {
	b.dials.Add(1)
	if b.fail.Load() {
		return nil, errBackend
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		defer l.Close() // not before the connection is taken: it would be reset
		conn, err := l.Accept()
		if err == nil {
			io.WriteString(conn, "this is "+service)
			conn.Close()
		}
	}()
	return net.Dial("tcp", l.Addr().String())
}

func (b *backend) DialPacket(_ context.Context, service string) (net.Conn, error) {
	b.dials.Add(1)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { server.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo([]byte(service+" heard "+string(buf[:n])), from)
		}
	}()
	return net.Dial("udp", server.LocalAddr().String())
}

func newSet(t *testing.T, b *backend) (*Set, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var told []string
	s := New(b, func(service string, err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, service+": "+err.Error())
	})
	t.Cleanup(func() { s.Close() })
	return s, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), told...)
	}
}

func service(name string, port uint16) client.Service {
	return client.Service{Name: name, Host: "h", Port: port, Online: true}
}

func read(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	b, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestEachServiceIsAtItsOwnAddressAndPort(t *testing.T) {
	testkit.NoLeak(t)
	b := &backend{t: t}
	s, _ := newSet(t, b)
	dns := service("dns", 5453)
	dns.Transport = control.TransportUDP
	locals := s.Apply([]client.Service{service("web", 8080), service("db", 8080), dns})
	if len(locals) != 3 || b.dials.Load() != 0 {
		t.Fatalf("%+v, %d dials before anybody came", locals, b.dials.Load())
	}
	for i, want := range []string{"db", "dns", "web"} {
		l := locals[i]
		if l.Service != want || l.Name != want+".postern.internal" || l.Error != "" || !l.Address.Addr().IsLoopback() {
			t.Errorf("%+v", l)
		}
	}
	if got := read(t, locals[0].Address); got != "this is db" || locals[0].Address.Port() != 8080 {
		t.Errorf("db at %v: %q", locals[0].Address, got)
	}
	if got := read(t, locals[2].Address); got != "this is web" || locals[2].Address.Port() != 8080 {
		t.Errorf("web at %v: %q", locals[2].Address, got)
	}
	conn, err := net.Dial("udp", locals[1].Address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "a question")
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "dns heard a question" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	s.Close()
	if got := read(t, locals[0].Address); !strings.Contains(got, "refused") {
		t.Errorf("after Close: %q", got)
	}
}

func TestWhatChangesChangesAndTheRestGoesOn(t *testing.T) {
	b := &backend{t: t}
	s, _ := newSet(t, b)
	before := s.Apply([]client.Service{service("a", 7001), service("b", 7002)})
	a := s.open["a"]
	after := s.Apply([]client.Service{service("a", 7001), service("c", 7003)})
	if s.open["a"] != a || after[0].Address != before[0].Address {
		t.Error("what has not changed was begun anew")
	}
	if got := read(t, before[1].Address); !strings.Contains(got, "refused") {
		t.Errorf("b is still there: %q", got)
	}
	if got := read(t, after[1].Address); got != "this is c" {
		t.Errorf("c: %q", got)
	}
}

func TestAPortThatIsTakenHindersNoOther(t *testing.T) {
	b := &backend{t: t}
	s, _ := newSet(t, b)
	at := names.Places([]string{"a", "b"})["a"].Addr()
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 7001).String())
	if err != nil {
		t.Fatal(err)
	}
	services := []client.Service{service("a", 7001), service("b", 7002)}
	locals := s.Apply(services)
	if locals[0].Error == "" || locals[1].Error != "" {
		t.Errorf("%+v", locals)
	}
	l.Close()
	if locals = s.Apply(services); locals[0].Error != "" {
		t.Errorf("once it is free: %+v", locals[0])
	}
}

func TestAServiceThatCannotBeReachedIsAResetAndIsTold(t *testing.T) {
	b := &backend{t: t}
	b.fail.Store(true)
	s, told := newSet(t, b)
	locals := s.Apply([]client.Service{service("a", 7001)})
	if got := read(t, locals[0].Address); !strings.Contains(got, "reset") {
		t.Errorf("got %q", got)
	}
	testkit.Eventually(t, 10*time.Second, "it to be told", func() bool {
		return len(told()) == 1 && told()[0] == "a: nobody home"
	})
}

func TestASilentControllerIsAskedAgainAndTheKnownServicesAreUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	known := client.Services{Services: []client.Service{service("known", 1)}}
	asked := 0
	ask := func(context.Context) (client.Services, error) {
		if asked++; asked == 1 {
			return client.Services{}, client.ErrNoAnswer
		}
		return client.Services{Services: []client.Service{service("fresh", 1)}}, nil
	}
	var applied []string
	again := make(chan struct{}, 1)
	again <- struct{}{}
	Follow(ctx, ask, known, again, func(all []client.Service, err error) {
		applied = append(applied, all[0].Name)
		if err == nil {
			cancel()
		}
	})
	if strings.Join(applied, " ") != "known fresh" {
		t.Errorf("applied %q", applied)
	}
}

package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

// enrolled returns a device of a controller with one host.
func enrolled(t *testing.T) (*client.Client, *controltest.Controller, *controltest.Host) {
	t.Helper()
	return enrolledWith(t, func(*controltest.Controller) {})
}

func enrolledWith(t *testing.T, set func(*controltest.Controller)) (*client.Client, *controltest.Controller, *controltest.Host) {
	t.Helper()
	c := controltest.New(t)
	h := c.AddHost()
	c.Set(set)
	token, err := c.Token(control.RoleClient).Encode()
	if err != nil {
		t.Fatal(err)
	}
	device, err := client.Enroll(t.Context(), token, filepath.Join(t.TempDir(), "id"), "laptop")
	if err != nil {
		t.Fatal(err)
	}
	return device, c, h
}

// events collects what an Access tells.
type events struct {
	mu  sync.Mutex
	all []client.Event
}

func (e *events) add(x client.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, x)
}

func (e *events) count(kind client.EventKind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, x := range e.all {
		if x.Kind == kind {
			n++
		}
	}
	return n
}

func access(t *testing.T, device *client.Client, config client.AccessConfig) *client.Access {
	t.Helper()
	config.Service = "echo"
	a, err := device.Access(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func dial(t *testing.T, a *client.Access) net.Conn {
	t.Helper()
	conn, err := a.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echoes sends and expects the same back.
func echoes(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}

func TestOneDirectionEndsAndTheOtherGoesOn(t *testing.T) {
	testkit.NoLeak(t)
	device, _, _ := enrolled(t)
	conn := dial(t, access(t, device, client.AccessConfig{}))
	sent := bytes.Repeat([]byte("postern "), 100_000)
	go func() {
		conn.Write(sent)
		conn.(*client.Conn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v, want %d", len(got), err, len(sent))
	}
}

func TestCloseEndsTheSessionAtTheController(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	a := access(t, device, client.AccessConfig{})
	conn := dial(t, a)
	echoes(t, conn, "x")
	a.Close()
	a.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read after Close: %v", err)
	}
	if n := c.Live(); n != 0 {
		t.Errorf("%d sessions are still live", n)
	}
	if _, err := a.Dial(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
}

func TestASessionInUseIsRenewed(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 6 * time.Second })
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	conn := dial(t, a)
	first := a.Granted()
	testkit.Eventually(t, 30*time.Second, "renewed twice", func() bool {
		return seen.count(client.EventRenewed) >= 2
	})
	if now := a.Granted(); now.Session != first.Session || !now.Deadline.After(first.Deadline.Add(2*time.Second)) {
		t.Errorf("session %s until %s became %s until %s", first.Session, first.Deadline, now.Session, now.Deadline)
	}
	if time.Now().Before(first.Deadline) {
		t.Fatal("the test proves nothing before the first deadline")
	}
	echoes(t, conn, "still here")
	if len(h.Sessions()) != 1 || c.Live() != 1 {
		t.Errorf("%d sessions at the host, %d at the controller", len(h.Sessions()), c.Live())
	}
}

func TestAnUnusedSessionIsLeftToEnd(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 2 * time.Second })
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	testkit.Eventually(t, 10*time.Second, "the session ends", func() bool { return len(h.Sessions()) == 0 })
	if n := seen.count(client.EventRenewed); n != 0 {
		t.Errorf("renewed %d times", n)
	}
	testkit.Eventually(t, 5*time.Second, "the end is told", func() bool {
		return seen.count(client.EventLost) == 1
	})
	echoes(t, dial(t, a), "a new session")
	if n := seen.count(client.EventGranted); n != 2 {
		t.Errorf("granted %d times, want 2", n)
	}
}

func TestWithNoRenewTheDeadlineEndsAll(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 2 * time.Second })
	a := access(t, device, client.AccessConfig{NoRenew: true})
	conn := dial(t, a)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, client.ErrExpired) {
		t.Errorf("got %v, want %v", err, client.ErrExpired)
	}
	<-a.Done()
	if _, err := a.Dial(t.Context()); !errors.Is(err, client.ErrExpired) {
		t.Errorf("got %v, want %v", err, client.ErrExpired)
	}
	if n := c.Count(spa.KindAccess); n != 1 {
		t.Errorf("knocked %d times, want once", n)
	}
}

// Policy may say no meanwhile: the session ends when it was to end.
func TestADeniedRenewalIsToldOnceAndEndsTheSession(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 2 * time.Second })
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	conn := dial(t, a)
	c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no more"} })
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, client.ErrExpired) {
		t.Errorf("got %v, want %v", err, client.ErrExpired)
	}
	if n := seen.count(client.EventNotRenewed); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

// A session that cannot grow any more is not asked for again and again.
func TestAPolicyThatGivesNoMoreTimeIsAskedOnce(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	end := time.Now().Add(3 * time.Second)
	c.Set(func(c *controltest.Controller) { c.Until = end })
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	conn := dial(t, a)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, client.ErrExpired) {
		t.Errorf("got %v, want %v", err, client.ErrExpired)
	}
	if n := seen.count(client.EventNotRenewed); n != 1 || c.Count(spa.KindAccess) != 2 {
		t.Errorf("told %d times, knocked %d times; want once, and twice", n, c.Count(spa.KindAccess))
	}
}

func TestRevocationEndsTheAccessForGood(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	a := access(t, device, client.AccessConfig{})
	conn := dial(t, a)
	h.End(a.Granted().Session, tunnel.ReasonRevoked)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, client.ErrRevoked) {
		t.Errorf("got %v, want %v", err, client.ErrRevoked)
	}
	<-a.Done()
	if _, err := a.Dial(t.Context()); !errors.Is(err, client.ErrRevoked) {
		t.Errorf("got %v, want %v", err, client.ErrRevoked)
	}
	if n := c.Count(spa.KindAccess); n != 1 {
		t.Errorf("knocked %d times, want once", n)
	}
}

func TestTheNextConnectionComesBackAfterAHostRestart(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	l, err := client.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	local := func(text string) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		echoes(t, conn, text)
	}
	local("before")
	first := a.Granted().Session
	h.Stop()
	h.Start()
	testkit.Eventually(t, 5*time.Second, "the break is noticed", func() bool {
		return seen.count(client.EventLost) == 1
	})
	local("after")
	if a.Granted().Session != first || c.Count(spa.KindAccess) != 2 {
		t.Errorf("session %s, %d knocks; want the same session %s with a second knock",
			a.Granted().Session, c.Count(spa.KindAccess), first)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve at the end of ctx: %v", err)
	}
}

func TestAServiceThatIsDownShowsAsAReset(t *testing.T) {
	testkit.NoLeak(t)
	device, _, h := enrolled(t)
	h.SetTarget("127.0.0.1:1")
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	if _, err := a.Dial(t.Context()); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("got %v, want %v", err, client.ErrUnreachable)
	}
	l, err := client.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !testkit.IsReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	cancel()
	<-served
	if seen.count(client.EventRefused) != 1 {
		t.Error("nobody was told why")
	}
}

// A knock that was only slow and sent again must not leave sessions behind.
func TestSurplusSessionsOfRetriesAreEnded(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Delay = 900 * time.Millisecond })
	a := access(t, device, client.AccessConfig{})
	c.Set(func(c *controltest.Controller) { c.Delay = 0 })
	if n := c.Count(spa.KindAccess); n < 2 {
		t.Fatalf("%d knocks prove nothing", n)
	}
	testkit.Eventually(t, 5*time.Second, "the other sessions are ended", func() bool {
		return c.Count(spa.KindClose) > 0 && c.Live() == 1
	})
	echoes(t, dial(t, a), "and it is the right one")
}

func TestACertificateIsRenewedBeforeUse(t *testing.T) {
	for name, test := range map[string]struct {
		life  time.Duration
		until func(client.Status) time.Time // when it is used
		wants bool
	}{
		"fresh":   {time.Hour, func(client.Status) time.Time { return time.Time{} }, false},
		"due":     {5 * time.Second, func(s client.Status) time.Time { return s.Renews }, true},
		"expired": {2 * time.Second, func(s client.Status) time.Time { return s.Expires }, true},
	} {
		t.Run(name, func(t *testing.T) {
			device, c, _ := enrolledWith(t, func(c *controltest.Controller) { c.Life = test.life })
			c.Set(func(c *controltest.Controller) { c.Life = 24 * time.Hour })
			before := device.Status()
			testkit.Eventually(t, 10*time.Second, "it is time", func() bool {
				return time.Now().After(test.until(before))
			})
			a := access(t, device, client.AccessConfig{})
			echoes(t, dial(t, a), "x")
			if renewed := device.Status().Expires.After(before.Expires); renewed != test.wants {
				t.Errorf("renewed: %t, want %t", renewed, test.wants)
			}
		})
	}
}

func TestAListenerThatOthersReachIsRefused(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.org:0"} {
		if l, err := client.Listen(t.Context(), address, false); !errors.Is(err, client.ErrPublicListen) {
			t.Errorf("%s: got %v, want %v", address, err, client.ErrPublicListen)
			if err == nil {
				l.Close()
			}
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.9.9.9:0", "localhost:0"} {
		l, err := client.Listen(t.Context(), address, false)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		l.Close()
	}
	l, err := client.Listen(t.Context(), "0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// A controller that is down ends no live session, nor does one that is silent hold up
// for long who comes back: there is a minute for its answer, and it is not waited for.
func TestATunnelComesBackWhileTheControllerIsSilent(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	var seen events
	a := access(t, patient(t, device, time.Minute), client.AccessConfig{Notify: seen.add})
	echoes(t, dial(t, a), "with it")
	c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	h.End(a.Granted().Session, tunnel.ReasonShutdown)
	h.Reopen(a.Granted().Session)
	testkit.Eventually(t, 5*time.Second, "the break is noticed", func() bool {
		return seen.count(client.EventLost) == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := a.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echoes(t, conn, "without it")
}

// Where host and controller have both forgotten the session, and the controller needs
// longer than it is given until the host is asked too, the new session is used.
func TestAControllerThatAnswersLateGivesANewSession(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	var seen events
	a := access(t, device, client.AccessConfig{Notify: seen.add})
	echoes(t, dial(t, a), "the first one")
	first := a.Granted().Session
	c.Set(func(c *controltest.Controller) { c.Lose, c.Forgetful = 2, true }) // the third goes out after 1.5 s
	h.End(first, tunnel.ReasonShutdown)
	testkit.Eventually(t, 5*time.Second, "the break is noticed", func() bool {
		return seen.count(client.EventLost) == 1
	})
	echoes(t, dial(t, a), "another")
	if a.Granted().Session == first {
		t.Error("it is the first session still")
	}
}

// A host's word that a session is over may go unheard: this machine slept.
func TestATunnelEndsWithItsSessionThoughTheHostDoesNotSaySo(t *testing.T) {
	device, c, h := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 2 * time.Second })
	a := access(t, device, client.AccessConfig{NoRenew: true})
	conn := dial(t, a)
	h.ForgetDeadlines()
	echoes(t, conn, "before")
	select {
	case <-a.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	if !errors.Is(a.Err(), client.ErrExpired) {
		t.Errorf("got %v, want %v", a.Err(), client.ErrExpired)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}

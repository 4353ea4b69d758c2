package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/internal/tunnel"
	"github.com/postern-sdp/postern/spa"
)

func dialer(t *testing.T, device *client.Client, config client.DialerConfig) *client.Dialer {
	t.Helper()
	d := device.Dialer(config)
	t.Cleanup(func() { d.Close() })
	return d
}

func dialService(t *testing.T, d *client.Dialer) net.Conn {
	t.Helper()
	conn, err := d.Dial(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestTenConnectionsAtOnceShareOneSession(t *testing.T) {
	stalls := testkit.WatchStalls(t) // a knock is sent again after 700 ms
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	d := dialer(t, device, client.DialerConfig{})
	var all sync.WaitGroup
	conns := make(chan net.Conn, 10)
	for range cap(conns) {
		all.Go(func() {
			conn, err := d.Dial(t.Context(), "echo")
			if err != nil {
				t.Error(err)
				return
			}
			conns <- conn
		})
	}
	all.Wait()
	if got := d.Sessions(); len(got) != 1 || got[0].Streams != 10 || !got[0].Connected || got[0].Path.Port() == 0 {
		t.Errorf("sessions: %+v", got)
	}
	for range len(conns) {
		conn := <-conns
		echoes(t, conn, "mine alone")
		conn.Close()
	}
	if n := c.Count(spa.KindAccess); n != 1 && !stalls.Excuse(n == 2, 700*time.Millisecond) {
		t.Errorf("%d access knocks for ten connections, want 1", n)
	}
}

func TestAnUnusedSessionEndsAndTheNextConnectionGetsAnother(t *testing.T) {
	device, _, _ := enrolled(t)
	d := dialer(t, device, client.DialerConfig{Idle: 50 * time.Millisecond})
	conn := dialService(t, d)
	first := d.Sessions()[0].Session
	time.Sleep(200 * time.Millisecond) // longer than Idle: it is in use
	echoes(t, conn, "still here")
	conn.Close()
	testkit.Eventually(t, 10*time.Second, "the idle session to end", func() bool { return len(d.Sessions()) == 0 })
	echoes(t, dialService(t, d), "again")
	if again := d.Sessions()[0].Session; again == first {
		t.Error("the session is the one that had ended")
	}
}

func TestARevokedSessionIsNotUsedForTheNextConnection(t *testing.T) {
	device, _, h := enrolled(t)
	d := dialer(t, device, client.DialerConfig{})
	conn := dialService(t, d)
	echoes(t, conn, "before")
	first := d.Sessions()[0].Session
	h.End(first, tunnel.ReasonRevoked)
	testkit.Eventually(t, 10*time.Second, "the stream to end", func() bool {
		_, err := conn.Write([]byte("x"))
		return err != nil
	})
	echoes(t, dialService(t, d), "after")
	if again := d.Sessions()[0].Session; again == first {
		t.Error("the session is the revoked one")
	}
}

func TestOneWhoGivesUpTakesNothingFromTheOthers(t *testing.T) {
	device, c, _ := enrolledWith(t, func(c *controltest.Controller) { c.Delay = 300 * time.Millisecond })
	d := dialer(t, device, client.DialerConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() {
		_, err := d.Dial(ctx, "echo")
		impatient <- err
	}()
	testkit.Eventually(t, 10*time.Second, "the first to wait", func() bool { return c.Count(spa.KindAccess) == 1 })
	time.AfterFunc(50*time.Millisecond, cancel)
	conn := dialService(t, d)
	echoes(t, conn, "patience")
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who gave up got %v", err)
	}
}

func TestAClosedDialerDialsNoMore(t *testing.T) {
	testkit.NoLeak(t)
	device, _, _ := enrolled(t)
	d := device.Dialer(client.DialerConfig{})
	conn := dialService(t, d)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("the connection outlived its Dialer")
	}
	if _, err := d.Dial(t.Context(), "echo"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("Dial on a closed Dialer: %v", err)
	}
	conn.Close()
}

func TestADeniedServiceIsAnErrorForEachWhoAsks(t *testing.T) {
	device, c, _ := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted} })
	d := dialer(t, device, client.DialerConfig{})
	for range 2 {
		if _, err := d.Dial(t.Context(), "nosuch"); !client.IsDenied(err) {
			t.Errorf("a service without a grant: %v", err)
		}
	}
	if got := d.Sessions(); len(got) != 0 {
		t.Errorf("sessions: %+v", got)
	}
}

// A syslog sender goes on whatever becomes of its lines.
func TestADeniedServiceIsNotKnockedForWithEachDatagram(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	h.SetPacketTarget(packetEcho(t))
	c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no"} })
	d := dialer(t, device, client.DialerConfig{})
	l, err := client.ListenPacket(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var dialled, told atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- client.ForwardPackets(ctx, l, func(ctx context.Context) (net.Conn, error) {
			dialled.Add(1)
			return d.DialPacket(ctx, "dns")
		}, func(error) { told.Add(1) })
	}()
	conn, err := net.Dial("udp", l.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testkit.Eventually(t, time.Minute, "a hundred tries", func() bool {
		conn.Write([]byte("line"))
		return dialled.Load() > 100
	})
	if knocks := c.Count(spa.KindAccess); knocks > 7 || told.Load() > 7 {
		t.Errorf("%d knocks, told %d times; want a few", knocks, told.Load())
	}
	c.Set(func(c *controltest.Controller) { c.Deny = nil })
	testkit.Eventually(t, time.Minute, "the grant to be seen", func() bool {
		conn.Write([]byte("line"))
		return len(d.Sessions()) == 1
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestALostTunnelIsNotKnockedForWithEachConnection(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	a := access(t, device, client.AccessConfig{})
	echoes(t, dial(t, a), "x")
	c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeHostOffline, Text: "offline"} })
	h.Stop()
	defer h.Start()
	testkit.Eventually(t, 10*time.Second, "the break", func() bool { return !a.Info().Connected })
	for range 50 {
		if _, err := a.Dial(t.Context()); !client.IsHostOffline(err) {
			t.Fatalf("got %v, want that the host is offline", err)
		}
	}
	if n := c.Count(spa.KindAccess); n > 7 {
		t.Errorf("%d knocks for fifty connections", n)
	}
}

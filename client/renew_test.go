package client_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// patient returns the device once more, with knocks that wait for long.
func patient(t *testing.T, device *client.Client, timeout time.Duration) *client.Client {
	t.Helper()
	again, err := client.Open(device.Status().Folder, client.WithTimeout(timeout))
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestANewConnectionDoesNotWaitForARenewal(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 6 * time.Second })
	var seen events
	a := access(t, patient(t, device, time.Minute), client.AccessConfig{Notify: seen.add})
	h.ForgetDeadlines()
	echoes(t, dial(t, a), "in use")
	c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	testkit.Eventually(t, 20*time.Second, "the renewal's knock", func() bool { return c.Count(spa.KindAccess) > 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := a.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echoes(t, conn, "at once")
}

func TestANewTunnelDoesNotWaitForTheCertificatesRenewal(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolledWith(t, func(c *controltest.Controller) { c.Life = 70 * time.Second })
	device = patient(t, device, time.Minute)
	c.Set(func(c *controltest.Controller) { c.Skew, c.LoseControl = 50*time.Second, true })
	c.Roll()
	if _, err := device.Knock(t.Context(), "echo", 0); err != nil { // it tells the time
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := device.Access(ctx, client.AccessConfig{Service: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	echoes(t, dial(t, a), "at once")
	expires := device.Status().Expires
	c.Set(func(c *controltest.Controller) { c.LoseControl = false })
	testkit.Eventually(t, 20*time.Second, "the certificate to be renewed meanwhile", func() bool {
		return device.Status().Expires.After(expires)
	})
}

func TestAControllerThatIsSilentNearTheEndIsToldOnce(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 6 * time.Second })
	var seen events
	a := access(t, patient(t, device, 200*time.Millisecond), client.AccessConfig{Notify: seen.add})
	conn := dial(t, a)
	c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	testkit.Eventually(t, 20*time.Second, "the end of the session", func() bool { return len(h.Sessions()) == 0 })
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	if n := seen.count(client.EventNotRenewed); n != 1 || c.Count(spa.KindAccess) < 3 {
		t.Errorf("told %d times after %d knocks, want once", n, c.Count(spa.KindAccess))
	}
}

// counts sends numbers through an echo and wants them back in order, until stop, which
// returns how many there were.
func counts(t *testing.T, conn net.Conn) (stop func() int) {
	t.Helper()
	done := make(chan struct{})
	result := make(chan int, 1)
	go func() {
		n := 0
		defer func() { result <- n }()
		buf := make([]byte, 8)
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
				t.Errorf("after %d numbers: %v", n, err)
				return
			}
			if _, err := io.ReadFull(conn, buf); err != nil || binary.BigEndian.Uint64(buf) != uint64(n) {
				t.Errorf("%d came back as %x, %v", n, buf, err)
				return
			}
			n++
		}
	}()
	return func() int { close(done); return <-result }
}

func TestARenewalAcrossARestartOfTheControllerShowsInNoStream(t *testing.T) {
	testkit.NoLeak(t)
	device, c, _ := enrolled(t)
	c.Set(func(c *controltest.Controller) { c.Session = 15 * time.Second })
	var seen events
	a := access(t, patient(t, device, 300*time.Millisecond), client.AccessConfig{Notify: seen.add})
	first := a.Granted()
	stop := counts(t, dial(t, a))
	knocks := func(n int) func() bool { return func() bool { return c.Count(spa.KindAccess) >= n } }
	c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	testkit.Eventually(t, 30*time.Second, "the renewal to be tried", knocks(2))
	c.Set(func(c *controltest.Controller) { c.Lose, c.Forgetful = 0, true })
	testkit.Eventually(t, 30*time.Second, "it to be tried again", knocks(3))
	c.Set(func(c *controltest.Controller) { c.Forgetful = false })
	testkit.Eventually(t, 30*time.Second, "the renewal", func() bool { return seen.count(client.EventRenewed) == 1 })
	testkit.Eventually(t, 30*time.Second, "the first deadline", func() bool { return time.Now().After(first.Deadline) })
	if n := stop(); n < 100 {
		t.Errorf("%d numbers came back until then", n)
	}
	if now := a.Granted(); now.Session != first.Session || seen.count(client.EventLost) != 0 {
		t.Errorf("session %s became %s, %d tunnels lost", first.Session, now.Session, seen.count(client.EventLost))
	}
}

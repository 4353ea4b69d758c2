package client_test

import (
	"context"
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

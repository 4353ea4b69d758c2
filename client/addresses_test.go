package client_test

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
)

// hole is an address that answers nothing.
func hole(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// everyStep does all that a device does with its controller and a host, and would
// fail where an address is waited for that does not answer.
func everyStep(t *testing.T, c *controltest.Controller, first netip.AddrPort) {
	t.Helper()
	c.Set(func(c *controltest.Controller) { c.Life = 70 * time.Second })
	token := c.Token(control.RoleClient)
	token.Addresses = []string{first.String(), c.Address()}
	invitation, err := token.Invitation()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	step := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s after %s", what, time.Since(begin).Round(time.Millisecond))
		begin = time.Now()
	}
	folder := filepath.Join(t.TempDir(), "id")
	_, err = client.Enroll(t.Context(), invitation, folder, "laptop")
	step("enrolled", err)
	// Another process, which knows what was stored.
	device, err := client.Open(folder)
	step("opened", err)
	if n := len(device.Status().Addresses); n != 2 {
		t.Errorf("the identity has %d addresses, want both", n)
	}
	_, err = device.Services(t.Context())
	step("services listed", err)
	a, err := device.Access(t.Context(), client.AccessConfig{Service: "echo"})
	step("connected", err)
	defer a.Close()
	echoes(t, dial(t, a), "x")
	before := device.Status().Expires
	c.Set(func(c *controltest.Controller) { c.Skew = 50 * time.Second })
	c.Roll()
	_, err = device.Knock(t.Context(), "echo", 0) // it tells the time
	step("knocked", err)
	_, err = device.Services(t.Context())
	step("certificate renewed", err)
	if !device.Status().Expires.After(before) {
		t.Error("it was not")
	}
}

func TestTheNextControllerIsTriedWhenTheFirstIsSilent(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.AddHost()
	everyStep(t, c, hole(t, "127.0.0.1"))
}

func TestIPv6ThatLeadsNowhereIsNotWaitedFor(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	h := c.AddHost()
	c.Set(func(c *controltest.Controller) { c.Ahead = []netip.AddrPort{hole(t, "::1")} })
	h.TellFirst(hole(t, "::1"))
	everyStep(t, c, hole(t, "::1"))
}

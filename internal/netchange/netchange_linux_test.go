package netchange

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/postern-sdp/postern/internal/testkit"
)

func TestANewAddressIsTold(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeak(t)
	link, err := netlink.LinkByName("lo") // the hub's goroutines are in the machine's own namespace
	if err != nil {
		t.Fatal(err)
	}
	change := func(last byte) {
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 77, 90, last), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(link, address); err != nil {
			t.Error(err)
		}
		if err := netlink.AddrDel(link, address); err != nil {
			t.Error(err)
		}
	}
	var hub Hub
	var first, second atomic.Int64
	leave := hub.Subscribe(func() { first.Add(1) })
	other := hub.Subscribe(func() { second.Add(1) })
	// The watcher subscribes to the kernel in its own time: change until it tells.
	testkit.Eventually(t, 10*time.Second, "both to be told", func() bool {
		change(1)
		return first.Load() > 0 && second.Load() > 0
	})
	other()
	leave()
	leave()
	told := first.Load()
	again := hub.Subscribe(func() { first.Add(1) })
	testkit.Eventually(t, 10*time.Second, "a later one to be told", func() bool {
		change(1)
		return first.Load() > told
	})
	again()
}

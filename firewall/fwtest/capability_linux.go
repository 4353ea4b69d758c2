package fwtest

import (
	"context"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/postern-sdp/postern/firewall"
)

// withoutCapability uses the firewall on a thread without any capability.
func withoutCapability(t *testing.T, n *network) {
	ctx := context.Background()
	n.install(t, firewall.Rules{})
	p := wide(firewall.UDP, n.client.v4, portA)
	n.open(t, p)
	errs := make(chan map[string]error)
	go func() {
		// Locked for good: the thread ends with this goroutine.
		runtime.LockOSThread()
		if err := dropCapabilities(); err != nil {
			errs <- map[string]error{"drop capabilities": err}
			return
		}
		_, listErr := n.fw.List(ctx)
		errs <- map[string]error{
			"install": n.fw.Install(ctx, firewall.Rules{}),
			"apply":   n.fw.Apply(ctx, firewall.Change{Revoke: []firewall.Pinhole{p}}),
			"list":    listErr,
			"remove":  n.fw.Remove(ctx),
		}
	}()
	for name, err := range <-errs {
		if !errors.Is(err, firewall.ErrPermission) {
			t.Errorf("%s: %v, want ErrPermission", name, err)
		}
	}
	if got := list(t, n.fw); len(got) != 1 {
		t.Errorf("with the capability again there is %v, want the pinhole of before", got)
	}
}

// dropCapabilities takes all capabilities from the calling thread (capset(2)).
func dropCapabilities() error {
	header := struct {
		version uint32
		pid     int32
	}{version: 0x20080522} // _LINUX_CAPABILITY_VERSION_3
	var none [2]struct{ effective, permitted, inheritable uint32 }
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

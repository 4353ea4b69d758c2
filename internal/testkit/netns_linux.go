package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace that lives as long as its test.
type Namespace struct {
	ns netns.NsHandle
}

// Netns makes an empty namespace with its loopback interface up and without
// IPv6 duplicate address detection, so that addresses are usable at once.
func Netns(t testing.TB) *Namespace {
	t.Helper()
	RequireRoot(t)
	runtime.LockOSThread()
	home := must(t, netns.Get)
	ns, err := netns.New() // enters it
	if err == nil {
		err = bare()
	}
	// A thread that cannot go home stays locked and ends with its goroutine.
	if back := netns.Set(home); back != nil {
		t.Fatalf("leave the new namespace: %v", back)
	}
	runtime.UnlockOSThread()
	home.Close()
	if err != nil {
		t.Fatalf("make namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return &Namespace{ns: ns}
}

// bare brings up what a new namespace lacks.
func bare() error {
	for _, which := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + which + "/accept_dad"
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func must[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Do runs f inside the namespace, on this goroutine: f may end the test.
// Sockets that f makes and programs that it starts stay inside; goroutines that
// it starts do not.
func (n *Namespace) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home := must(t, netns.Get)
	defer home.Close()
	if err := netns.Set(n.ns); err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("enter namespace: %v", err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			t.Errorf("leave namespace: %v", err)
			return // the thread stays locked and ends with its goroutine
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// FD is the namespace's file descriptor, valid until the end of the test.
func (n *Namespace) FD() int { return int(n.ns) }

// Run starts a program inside, waits for it and returns what it printed; the
// test ends when it fails.
func (n *Namespace) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	n.Do(t, func() {
		if path, lookErr := lookPath(name); lookErr == nil {
			out, err = exec.Command(path, args...).CombinedOutput()
		} else {
			err = lookErr
		}
	})
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// lookPath also looks where a plain user's PATH does not.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// Sysctl sets a network setting of the namespace: Sysctl(t, "ipv4/ip_forward", "1").
func (n *Namespace) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	var err error
	n.Do(t, func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
}

// handle gives f a netlink connection of the namespace.
func (n *Namespace) handle(t testing.TB, f func(h *netlink.Handle) error) {
	t.Helper()
	h, err := netlink.NewHandleAt(n.ns)
	if err != nil {
		t.Fatalf("netlink: %v", err)
	}
	defer h.Close()
	if err := f(h); err != nil {
		t.Fatal(err)
	}
}

// device runs f with the interface called name.
func (n *Namespace) device(t testing.TB, name string,
	f func(h *netlink.Handle, l netlink.Link) error) {
	t.Helper()
	n.handle(t, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		if err := f(h, l); err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		return nil
	})
}

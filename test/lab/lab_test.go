package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// newLab stands up a lab that is gone when the test ends.
func newLab(t *testing.T) *Lab {
	t.Helper()
	l, err := ForProcess("pt", "", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := Up(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestScanSeesAHostThatAnswers(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		source, target netip.Addr
		icmp           string
	}{{StrangerV4, HostV4, "icmp"}, {StrangerV6, HostV6, "icmpv6"}} {
		scan, err := l.Scan("stranger", c.source, c.target)
		if err != nil {
			t.Fatal(err)
		}
		if scan.Kinds["tcp"] < 60000 || scan.Kinds[c.icmp] == 0 {
			t.Errorf("scan of an unprotected host: %s, want an answer from nearly every port", scan)
		}
	}
}

func TestEachNATShowsTheAddressesOfTheDrawing(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		from, to string
		address  netip.Addr
		shown    netip.Addr
	}{
		{"client", "host", HostV4, NatV4},
		{"neighbour", "host", HostV4, NatV4},
		{"client", "controller", ControllerV4, NatV4},
		{"roamer", "controller", ControllerV4, Nat2ToOthers},
		{"roamer", "host", HostV4, Nat2ToHost},
	} {
		got, err := l.addressShown(c.from, c.to, c.address)
		if err != nil {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		} else if got != c.shown {
			t.Errorf("%s shows %s the address %s, want %s", c.from, c.to, got, c.shown)
		}
	}
}

// addressShown connects from one machine to another and says whom that one sees.
func (l *Lab) addressShown(from, to string, address netip.Addr) (netip.Addr, error) {
	var listener net.Listener
	err := l.in(to, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(address, 2222).String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer listener.Close()
	err = l.in(from, func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 2*time.Second)
		if err == nil {
			defer conn.Close()
		}
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	conn, err := listener.Accept()
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), nil
}

func TestDownKillsWhatRunsInside(t *testing.T) {
	l := newLab(t)
	p, err := l.Start("host", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	err = Wait(t.Context(), 5*time.Second, "the process to end", func() (bool, error) { return !p.Running(), nil })
	if err != nil {
		t.Error(err)
	}
	if l.Standing() {
		t.Error("namespaces still stand after Down")
	}
}

// TestNamesThatOthersAddCoverNoneOfALabs has `ip netns add` make the folder of names a
// mount, as it does once on every machine.
func TestNamesThatOthersAddCoverNoneOfALabs(t *testing.T) {
	l := newLab(t)
	other := l.namespace("other")
	for _, args := range [][]string{{"netns", "add", other}, {"netns", "del", other}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	if err := l.Down(); err != nil {
		t.Error(err)
	}
}

func TestWhatAKilledProcessLeftIsSwept(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left := &Lab{Prefix: fmt.Sprintf("ps%d", gone.Process.Pid), Dir: t.TempDir()}
	alive := &Lab{Prefix: fmt.Sprintf("ps%d", os.Getppid()), Dir: t.TempDir()}
	for _, l := range []*Lab{left, alive} {
		if err := l.addNamespace("host"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Down() })
	}
	// What a restart of the machine leaves of a name.
	if err := os.WriteFile(filepath.Join(runDir, left.namespace("client")), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := ForProcess("ps", "", ""); err != nil {
		t.Fatal(err)
	}
	if names, err := left.namespaces(); err != nil || len(names) != 0 {
		t.Errorf("the dead one's: %v, %v", names, err)
	}
	if names, err := alive.namespaces(); err != nil || len(names) != 1 {
		t.Errorf("the living one's: %v, %v", names, err)
	}
}

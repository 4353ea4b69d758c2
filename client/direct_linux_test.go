package client_test

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// silentTCP is an address where nobody answers: the kernel drops what comes to a
// listener whose queue is full.
func silentTCP(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	t.Cleanup(func() { f.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	testkit.Eventually(t, 30*time.Second, "the queue to be full", func() bool {
		conn, err := net.DialTimeout("tcp", at.String(), 300*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err != nil
	})
	return at
}

func TestADirectServiceIsReachedAtTheAddressThatAnswers(t *testing.T) {
	testkit.NoLeak(t)
	device, _, h := enrolled(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, binding := range []control.Binding{control.BindAddress, control.BindExact} {
		h.SetDirect(control.Access{Binding: binding}, silentTCP(t), l.Addr().(*net.TCPAddr).AddrPort())
		d := dialer(t, device, client.DialerConfig{})
		conn := dialService(t, d)
		if conn.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("%s: connected to %v, want %v", binding, conn.RemoteAddr(), l.Addr())
		}
		conn.Close()
	}
}

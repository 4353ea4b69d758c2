package lossy

import (
	"fmt"
	"net"
	"testing"
	"time"
)

func TestWhatPassesIsLoss(t *testing.T) {
	for _, e := range lossErrors() {
		if !Is(fmt.Errorf("write: %w", e)) {
			t.Errorf("%v is not taken for loss", e)
		}
	}
	for _, e := range toldErrors() {
		if Is(e) {
			t.Errorf("%v is taken for loss", e)
		}
	}
}

func TestTheSocketTellsWhatIsNoLoss(t *testing.T) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c := Conn{socket}
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	if _, _, err := c.WriteMsgUDP(make([]byte, 70_000), nil, to); err == nil {
		t.Error("a datagram that is too long was taken")
	}
	if _, _, err := c.WriteMsgUDP([]byte("x"), nil, to); err != nil {
		t.Error(err)
	}
}

// The client has one socket for both families, on each system that it runs on.
func TestOneSocketReachesBothFamilies(t *testing.T) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c := Conn{socket}
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		there, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		if _, _, err := c.WriteMsgUDP([]byte("x"), nil, there.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
		there.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, from, err := there.ReadFromUDPAddrPort(make([]byte, 2))
		if err != nil {
			t.Fatalf("%s: %v", ip, err)
		}
		if _, err := there.WriteToUDPAddrPort([]byte("y"), from); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, from, err = c.ReadFromUDPAddrPort(make([]byte, 2)); err != nil || from.Addr().Unmap().String() != ip.String() {
			t.Errorf("%s: answered from %s, %v", ip, from, err)
		}
	}
}

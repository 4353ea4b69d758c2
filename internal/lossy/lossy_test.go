package lossy

import (
	"fmt"
	"net"
	"testing"
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

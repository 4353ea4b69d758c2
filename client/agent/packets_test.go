package agent_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client/agent"
)

// plain reaches a local UDP port, whatever the service.
type plain struct{ address string }

func (plain) Dial(context.Context, string) (net.Conn, error) { panic("not asked for") }

func (p plain) DialPacket(context.Context, string) (net.Conn, error) {
	return net.Dial("udp", p.address)
}

func TestDatagramsKeepTheirBounds(t *testing.T) {
	h := newHouse(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], from)
		}
	}()
	l, err := agent.Listen(h.identity)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Serve(ctx, l, agent.Config{Version: "1", Dialer: plain{server.LocalAddr().String()}})
	}()
	conn, err := h.remote("1", nil).DialPacket(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	for _, size := range []int{1, 1200, 9000, 65000, 3} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Errorf("got %d bytes, %v, want %d", n, err, size)
		}
	}
	if _, err := conn.Write([]byte("long enough to be cut")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf[:4]); err != nil || string(buf[:n]) != "long" {
		t.Errorf("a short buffer gets %q, %v", buf[:n], err)
	}
	conn.Write([]byte("next"))
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "next" {
		t.Errorf("after a short buffer: %q, %v", buf[:n], err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(buf); err == nil {
		t.Error("the flow outlives the agent")
	}
}

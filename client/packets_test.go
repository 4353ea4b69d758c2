package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

// packetEcho is a UDP service that answers with what it got and who asked.
func packetEcho(t *testing.T) string {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			l.WriteTo(fmt.Appendf(nil, "%s from %s", buf[:n], from), from)
		}
	}()
	return l.LocalAddr().String()
}

// question sends a datagram and returns the answer.
func question(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestEachLocalPeerOfAUDPServiceHasAFlowOfItsOwn(t *testing.T) {
	testkit.NoLeak(t)
	device, _, h := enrolled(t)
	h.SetPacketTarget(packetEcho(t))
	d := dialer(t, device, client.DialerConfig{})
	l, err := client.ListenPacket(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- client.ForwardPackets(ctx, l, func(ctx context.Context) (net.Conn, error) {
			return d.DialPacket(ctx, "dns")
		}, func(err error) { t.Error(err) })
	}()
	answers := make(map[string]bool)
	for i := range 3 {
		conn, err := net.Dial("udp", l.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		first := question(t, conn, fmt.Sprint("one ", i))
		again := question(t, conn, fmt.Sprint("two ", i))
		if first[:5] != fmt.Sprint("one ", i) || again[5:] != first[5:] {
			t.Errorf("peer %d: %q, then %q: want its own question, from the same address", i, first, again)
		}
		answers[first[5:]] = true
	}
	if len(answers) != 3 {
		t.Errorf("the service saw %v, want three peers", answers)
	}
	if got := d.Sessions(); len(got) != 1 || got[0].Streams != 3 {
		t.Errorf("sessions: %+v", got)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAServiceIsDialledByWhatItSpeaks(t *testing.T) {
	device, _, h := enrolled(t)
	d := dialer(t, device, client.DialerConfig{})
	if _, err := d.DialPacket(t.Context(), "echo"); !errors.Is(err, client.ErrNotUDP) {
		t.Errorf("a TCP service dialled for datagrams: %v, want %v", err, client.ErrNotUDP)
	}
	h.SetPacketTarget(packetEcho(t))
	if _, err := d.Dial(t.Context(), "dns"); !errors.Is(err, client.ErrNotTCP) {
		t.Errorf("a UDP service dialled for a stream: %v, want %v", err, client.ErrNotTCP)
	}
}

// Every question of a resolver's comes from a new port, and is a flow until it has been
// silent for a while.
func TestAThousandQuestionsInARowEndNothingElse(t *testing.T) {
	testkit.NoLeak(t)
	device, c, h := enrolled(t)
	var seen events
	d := dialer(t, device, client.DialerConfig{Notify: func(_ string, e client.Event) { seen.add(e) }})
	stream := dialService(t, d)
	h.SetPacketTarget(packetEcho(t))
	l, err := client.ListenPacket(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- client.ForwardPackets(ctx, l, func(ctx context.Context) (net.Conn, error) {
			return d.DialPacket(ctx, "dns")
		}, func(err error) { t.Error(err) })
	}()
	from := func() net.Conn {
		conn, err := net.Dial("udp", l.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	long := from()
	defer long.Close()
	first := question(t, long, "long")
	for i := range 1000 {
		conn := from()
		question(t, conn, "who is it?")
		conn.Close()
		if i%100 == 0 {
			if again := question(t, long, "long"); again != first {
				t.Fatalf("the flow that lasts began anew: %q, then %q", first, again)
			}
		}
	}
	echoes(t, stream, "and the stream goes on")
	if lost := seen.count(client.EventLost); lost != 0 || c.Count(spa.KindAccess) != 2 {
		t.Errorf("%d tunnels lost, %d knocks; want none, and one for each service", lost, c.Count(spa.KindAccess))
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

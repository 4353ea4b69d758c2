package lab

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// udpShown sends datagrams from an open socket of the client's to the host until
// one comes, and says from where the host sees it come.
func udpShown(t *testing.T, l *Lab, from, at net.PacketConn) netip.AddrPort {
	t.Helper()
	var seen netip.AddrPort
	b := make([]byte, 64)
	for flush := true; flush; { // what came before
		_ = at.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, _, err := at.ReadFrom(b)
		flush = err == nil
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(HostV4, 4000))
	err := Wait(t.Context(), 5*time.Second, "a datagram", func() (bool, error) {
		if _, err := from.WriteTo([]byte("whom do you see?"), to); err != nil {
			return false, err
		}
		_ = at.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, address, err := at.ReadFrom(b)
		if err == nil {
			seen = address.(*net.UDPAddr).AddrPort()
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestAFlowShowsAnotherPortAfterARebindAndAnotherAddressAfterAMove(t *testing.T) {
	l := newLab(t)
	if err := l.PrepareMoves(t.Context()); err != nil {
		t.Fatal(err)
	}
	var from, at net.PacketConn
	listen := func(where, address string, socket *net.PacketConn) {
		err := l.in(where, func() (err error) {
			*socket, err = net.ListenPacket("udp4", address)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*socket).Close() })
	}
	listen("client", ":0", &from)
	listen("host", ":4000", &at)
	first := udpShown(t, l, from, at)
	if again := udpShown(t, l, from, at); again != first {
		t.Fatalf("without any change, %s became %s", first, again)
	}
	last := first
	for _, nat := range []string{"nat", "nat2", "nat"} {
		if err := l.MoveClient(nat); err != nil {
			t.Fatal(err)
		}
		want := map[string]netip.Addr{"nat": NatV4, "nat2": Nat2ToHost}[nat]
		if got := udpShown(t, l, from, at); got.Addr() != want {
			t.Errorf("behind %s the host sees %s, not %s", nat, got, want)
		} else {
			last = got
		}
		for range 2 {
			if err := l.RebindNAT(t.Context(), nat); err != nil {
				t.Fatal(err)
			}
			if n, err := at.WriteTo([]byte("for the old port"), net.UDPAddrFromAddrPort(last)); err != nil || n == 0 {
				t.Fatal(err)
			}
			_ = from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, _, err := from.ReadFrom(make([]byte, 64)); err == nil {
				t.Errorf("%s still brings what comes to the port it has forgotten", nat)
			}
			got := udpShown(t, l, from, at)
			if got.Addr() != want || got.Port() == last.Port() {
				t.Errorf("%s showed %s, and shows %s after the rebind", nat, last, got)
			}
			last = got
		}
	}
}

func TestALongLineTakesItsTimeAndLosesNothing(t *testing.T) {
	const rtt = 60 * time.Millisecond
	l := newLab(t)
	connect := func() (time.Duration, net.Conn) {
		begun := time.Now()
		var conn net.Conn
		err := l.in("client", func() (err error) {
			conn, err = net.DialTimeout("tcp", "198.51.100.30:7000", 5*time.Second)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(begun), conn
	}
	content := noise("line", 8<<20)
	err := l.Serve("host", "0.0.0.0:7000", func(conn net.Conn) {
		defer conn.Close()
		_, _ = conn.Write(content)
	})
	if err != nil {
		t.Fatal(err)
	}
	short, conn := connect()
	conn.Close()
	if err := l.LongLine("host", rtt/2, 0); err != nil {
		t.Fatal(err)
	}
	long, conn := connect()
	defer conn.Close()
	if long < rtt {
		t.Errorf("connecting took %s on the short line and %s on the long one, want %s at least", short, long, rtt)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes came over the long line: %v", len(got), len(content), err)
	}
}

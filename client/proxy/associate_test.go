package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/testkit"
)

// udpClient is a client of UDP ASSOCIATE.
type udpClient struct {
	control net.Conn
	socket  *net.UDPConn
	to      netip.AddrPort
}

// associate begins an association without telling the client's port.
func (h *house) associate() *udpClient {
	h.t.Helper()
	u := &udpClient{control: h.connect()}
	if got := say(h.t, u.control, "\x05\x01\x00", 2); got != "\x05\x00" {
		h.t.Fatalf("hello was answered by %q", got)
	}
	reply := say(h.t, u.control, "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", 10)
	if len(reply) != 10 || reply[1] != replyOK || reply[3] != familyIPv4 {
		h.t.Fatalf("the association was answered by %q", reply)
	}
	ip, _ := netip.AddrFromSlice([]byte(reply[4:8]))
	u.to = netip.AddrPortFrom(ip, uint16(reply[8])<<8|uint16(reply[9]))
	u.socket = localSocket(h.t)
	return u
}

func localSocket(t *testing.T) *net.UDPConn {
	t.Helper()
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return socket
}

func packet(fragment byte, host string, port uint16, data string) string {
	return string([]byte{0, 0, fragment, familyName, byte(len(host))}) + host + string([]byte{byte(port >> 8), byte(port)}) + data
}

func (u *udpClient) send(t *testing.T, datagram string) {
	t.Helper()
	if _, err := u.socket.WriteToUDPAddrPort([]byte(datagram), u.to); err != nil {
		t.Fatal(err)
	}
}

// read returns the next datagram, nothing after a while.
func read(t *testing.T, socket *net.UDPConn, wait time.Duration) string {
	t.Helper()
	_ = socket.SetReadDeadline(time.Now().Add(wait))
	buffer := make([]byte, 65536)
	n, err := socket.Read(buffer)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// exchange sends a datagram, again when it got lost, and wants the answer with the
// header of the question.
func (u *udpClient) exchange(t *testing.T, host string, port uint16, data, want string) {
	t.Helper()
	for try := 0; try < 5; try++ {
		u.send(t, packet(0, host, port, data))
		got := read(t, u.socket, 2*time.Second)
		if got == "" {
			continue
		}
		if got != packet(0, host, port, want) {
			t.Fatalf("got %q, want %q from %s", got, want, host)
		}
		return
	}
	t.Fatalf("%s does not answer", host)
}

func TestDatagramsReachServicesAndComeBack(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["dns"], h.dialer.target["echo"] = echoUDP(t, "dns"), echoUDP(t, "echo")
	u := h.associate()
	u.exchange(t, "dns", 53, "question", "dns:question")
	u.exchange(t, "echo.postern.internal", 7, "hello", "echo:hello")
	u.exchange(t, "dns", 53, "", "dns:")
	large := strings.Repeat("x", 20_000)
	u.exchange(t, "dns", 53, large, "dns:"+large)
	if dns, echo := h.dialer.count("udp dns"), h.dialer.count("udp echo"); dns != 1 || echo != 1 {
		t.Errorf("%d and %d flows, want one for each destination", dns, echo)
	}
}

// The same through a real perimeter.
func TestDatagramsGoThroughATunnel(t *testing.T) {
	device, perimeter := enrolled(t)
	perimeter.SetPacketTarget(echoUDP(t, "dns"))
	h := newHouse(t, through(t, device))
	u := h.associate()
	large := strings.Repeat("x", 20_000)
	for _, data := range []string{"question", large, "again"} {
		u.exchange(t, "echo.postern.internal", 53, data, "dns:"+data)
	}
	if reply := h.asks(h.connect(), named(commandConnect, "echo", 53)); reply != replyRefused {
		t.Errorf("TCP to a UDP service: reply %d", reply)
	}
	if n := len(perimeter.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestFragmentsAndStrangersAreDropped(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := h.associate()
	if runtime.GOOS == "linux" { // others have one loopback address
		other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := other.WriteToUDPAddrPort([]byte(packet(0, "dns", 53, "before")), u.to); err != nil {
			t.Fatal(err)
		}
	}
	u.exchange(t, "dns", 53, "first", "dns:first")
	stranger := localSocket(t)
	if _, err := stranger.WriteToUDPAddrPort([]byte(packet(0, "dns", 53, "stolen")), u.to); err != nil {
		t.Fatal(err)
	}
	u.send(t, packet(1, "dns", 53, "fragment"))
	u.send(t, "\x00\x00\x00")
	u.send(t, "\x00\x00\x00\x09nonsense")
	// What was sent before is through when this is.
	u.exchange(t, "dns", 53, "last", "dns:last")
	if got := read(t, u.socket, 100*time.Millisecond); got != "" {
		t.Errorf("the client also got %q", got)
	}
	if got := read(t, stranger, 100*time.Millisecond); got != "" {
		t.Errorf("a stranger got %q", got)
	}
}

// With its port in the request, not even the first datagram can be another's.
func TestAPortThatWasToldIsTheOnlyOne(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := &udpClient{control: h.connect(), socket: localSocket(t)}
	own := u.socket.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	say(t, u.control, "\x05\x01\x00", 2)
	reply := say(t, u.control, string([]byte{5, commandAssociate, 0, familyIPv4, 127, 0, 0, 1, byte(own >> 8), byte(own)}), 10)
	u.to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(reply[8])<<8|uint16(reply[9]))
	stranger := localSocket(t)
	if _, err := stranger.WriteToUDPAddrPort([]byte(packet(0, "echo", 53, "stolen")), u.to); err != nil {
		t.Fatal(err)
	}
	u.exchange(t, "dns", 53, "mine", "dns:mine")
	if h.dialer.count("udp echo") != 0 {
		t.Error("a stranger's datagram was carried")
	}
}

func TestAnAssociationEndsWithItsConnection(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := h.associate()
	u.exchange(t, "dns", 53, "x", "dns:x")
	u.control.Close()
	testkit.Eventually(t, 5*time.Second, "its port is free", func() bool {
		socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(u.to))
		if err == nil {
			socket.Close()
		}
		return err == nil
	})
}

func TestASilentFlowEndsAndTheNextDatagramOpensAnother(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.limits.flowIdle = 50 * time.Millisecond })
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := h.associate()
	u.exchange(t, "dns", 53, "x", "dns:x")
	testkit.Eventually(t, 10*time.Second, "a second flow", func() bool {
		u.exchange(t, "dns", 53, "x", "dns:x")
		<-time.After(60 * time.Millisecond)
		return h.dialer.count("udp dns") >= 2
	})
}

// Each try to reach a service costs a knock: a client that is denied and goes on
// sending must not make one of each datagram.
func TestADeniedFlowIsNotTriedForEachDatagram(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.limits.flowHold = time.Hour })
	h.dialer.fails["echo"] = client.ErrRevoked
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := h.associate()
	for range 20 {
		u.send(t, packet(0, "echo", 7, "x"))
		// What was sent before is through, and its dial over, when this is.
		u.exchange(t, "dns", 53, "x", "dns:x")
	}
	if n := h.dialer.count("udp echo"); n != 1 {
		t.Errorf("dialled %d times", n)
	}
}

func TestAssociationsAndFlowsAreBounded(t *testing.T) {
	h := newHouse(t, nil)
	h.dialer.target["dns"] = echoUDP(t, "dns")
	u := h.associate()
	u.exchange(t, "dns", 53, "x", "dns:x")
	for i := range maxFlows + 50 { // each port is a destination of its own
		u.send(t, packet(0, "dns", uint16(1000+i), "x"))
		read(t, u.socket, 20*time.Millisecond)
	}
	if n := h.dialer.count("udp dns"); n > maxFlows || n < maxFlows/2 {
		t.Errorf("%d flows, want at most %d", n, maxFlows)
	}
	for range maxAssociations - 1 {
		h.associate()
	}
	if reply := h.asks(h.connect(), named(commandAssociate, "0.0.0.0", 0)); reply != replyFailed {
		t.Errorf("one more: reply %d", reply)
	}
	u.control.Close()
	testkit.Eventually(t, 5*time.Second, "its place is free", func() bool {
		conn, err := net.Dial("tcp", h.at)
		if err != nil {
			return false
		}
		defer conn.Close()
		io.WriteString(conn, "\x05\x01\x00"+named(commandAssociate, "0.0.0.0", 0))
		reply := make([]byte, 12)
		_, err = io.ReadFull(conn, reply)
		return err == nil && reply[3] == replyOK
	})
}

package tunnel

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// TestAResetTellsTheClientOfARestartedHost: the process that had the connection
// was killed and said nothing; the next one has the same key.
func TestAResetTellsTheClientOfARestartedHost(t *testing.T) {
	h := openHouse(t, loopback4)
	h.reset = key.NewKnock().ResetKey()
	h.serve()
	conn := h.dial(h.grant())
	stream := open(t, conn)
	echo(t, stream, "hello")
	h.restart()
	if _, err := stream.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, DefaultIdle/3, "the client knows", func() bool { return conn.Err() != nil })
	if err := conn.Err(); !errors.Is(err, ErrLost) {
		t.Errorf("the connection ended with %v, want ErrLost", err)
	}
}

// TestResetsGoToAdmittedSourcesOnly: a datagram that looks like a lost
// connection's is no way to make a host answer.
func TestResetsGoToAdmittedSourcesOnly(t *testing.T) {
	h := openHouse(t, loopback4)
	h.reset = key.NewKnock().ResetKey()
	h.serve()
	s := newSocket(t, h.address())
	lost := make([]byte, 1200)
	lost[0] = 0x40 // RFC 9000, section 17.3.1: a short header
	if _, err := s.Write(lost); err != nil {
		t.Fatal(err)
	}
	silent(t, s, 200*time.Millisecond)
	source := s.LocalAddr().(*net.UDPAddr).AddrPort()
	h.gate.Admit(source, h.grant().id)
	if _, err := s.Write(lost); err != nil {
		t.Fatal(err)
	}
	if err := s.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 2000)); err != nil {
		t.Errorf("an admitted source got no reset (%v): the silence above proves nothing", err)
	}
}

// restart is what kill -9 and a new process are to a client: the same address and
// the same admitted sources, and nobody who knows of the connections.
func (h *house) restart() {
	h.t.Helper()
	address := h.gate.Addr()
	h.gate.Close() // first: the dying server shall tell nobody
	h.stop()
	var err error
	if h.gate, err = Listen(address, h.knock); err != nil {
		h.t.Fatal(err)
	}
	gate := h.gate
	h.t.Cleanup(func() { gate.Close() })
	h.mu.Lock()
	for id, source := range h.sources {
		h.gate.Admit(source, id)
	}
	h.mu.Unlock()
	h.serve()
}

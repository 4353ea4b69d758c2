package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// The last acknowledgements go with them: the host's QUIC would else send all again.
func TestBehindAKnockGoTheLastDatagramsOfTheSilence(t *testing.T) {
	host, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	g, err := Listen(netip.MustParseAddrPort(loopback4), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	at := host.LocalAddr().(*net.UDPAddr).AddrPort()
	g.Admit(at, key.NewID())
	p, w := g.admitted(at), newWatch(nil)
	begun := g.now() - int64(time.Second) // what is due has been for a while, whatever a clock's steps
	w.remember([]byte("heard of"), begun)
	p.heard.Store(begun)
	w.remember(make([]byte, lastLimit+1), begun)
	want := []string{}
	for i := range lastCount - 1 {
		want = append(want, fmt.Sprint("datagram ", i))
		w.remember([]byte(want[i]), begun+1)
	}
	w.knocked.Store(begun)
	feel := &pulse{watch: w, gate: g, peer: func() *peer { return p }, again: begun + int64(repeatAfter)}
	if wait := feel.repeatAgain(0); wait <= 0 {
		t.Errorf("it waits for %v and does not send them once more", wait)
	}
	var got []string
	_ = host.SetReadDeadline(time.Now().Add(10 * time.Second))
	for b := make([]byte, 2*lastLimit); len(got) < len(want); {
		n, _, err := host.ReadFrom(b)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, string(b[:n]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	p.heard.Store(g.now() + 1)
	if wait := feel.repeatAgain(knockRarely); wait != knockRarely || feel.again != 0 {
		t.Errorf("after an answer it waits for %v to send them again", wait)
	}
}

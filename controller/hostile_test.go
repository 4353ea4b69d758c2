package controller

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// clearing is an address whose zone, which may be any text, clears a terminal.
var clearing = netip.MustParseAddr("fe80::1%\x1b[2J")

// TestAHostsAddressesDoNotReachTheTerminalAsTheyAre: what a host says is shown to the
// administrator.
func TestAHostsAddressesDoNotReachTheTerminalAsTheyAre(t *testing.T) {
	s := newScene(t)
	_, order := s.open()
	s.agent.close()
	order.ID, order.Source = key.NewID(), clearing
	s.connect(order)
	live, err := s.AllSessions(s.ctx())
	if err != nil || len(live) != 2 {
		t.Fatalf("live: %v, %v", live, err)
	}
	r := report(1, "aa")
	r.Record.Source = clearing
	s.tell(r, true)
	told, err := s.Emergencies(s.ctx())
	if err != nil || len(told) != 1 {
		t.Fatalf("told: %v, %v", told, err)
	}
	for _, a := range []netip.Addr{live[0].Source, live[1].Source, told[0].Record.Source} {
		if strings.Contains(a.String(), "\x1b") {
			t.Errorf("shown: %q", a)
		}
	}
}

// TestAHelloIsNotKeptAsLongAsItWas: a host's stream lives for months, and its first
// message may have a megabyte.
func TestAHelloIsNotKeptAsLongAsItWas(t *testing.T) {
	s := newScene(t)
	_, order := s.open()
	s.agent.close()
	a := s.dialled(s.hostID, control.Hello{
		Version: strings.Repeat("x", 1<<19), Port: 4042, Sessions: []control.Session{order},
	})
	a.sync(t)
	l := s.sessions.online(s.hostID.ID)
	if l == nil || len(l.hello.Version) > 200 || l.hello.Sessions != nil {
		t.Error("the whole hello is kept")
	}
}

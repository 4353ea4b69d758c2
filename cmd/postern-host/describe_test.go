package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/doctor"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestThePlanSaysInWordsWhatStopsWorking(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.10")
	var b strings.Builder
	describeCuts(&b, doctor.Cuts{
		Live:       []doctor.Live{{Port: 22, Source: one}, {Port: 22, Source: one}, {Port: 443, Source: two}},
		Forwarding: []string{"eth0", "wg0"}, Guests: []string{"virbr0"},
	})
	const want = `connections that are cut: tcp/22 from 192.0.2.9, tcp/443 from 192.0.2.10
this machine forwards: what begins on eth0, wg0 is cut, unless it goes to a published port and is let in there (firewall.inside names where flows may begin)
guests on virbr0 lose this machine's DNS and DHCP; to keep them: [[keep]] with interface = "virbr0", ports = ["udp/53", "tcp/53", "udp/67"]
`
	if b.String() != want {
		t.Errorf("said\n%swant\n%s", &b, want)
	}
	var many []doctor.Live
	for range 100 {
		one = one.Next()
		many = append(many, doctor.Live{Port: 22, Source: one})
	}
	b.Reset()
	if describeCuts(&b, doctor.Cuts{Live: many}); !strings.HasSuffix(b.String(), ", and 90 more\n") {
		t.Errorf("of 100: %s", &b)
	}
	b.Reset()
	if describeCuts(&b, doctor.Cuts{}); b.Len() > 0 {
		t.Errorf("of nothing: %s", &b)
	}
}

func TestThePlanSaysWhetherAnAgentOpensDoors(t *testing.T) {
	s := newService(t)
	s.asRoot("unprotect")
	if out := s.asRoot("protect", "--dry-run"); !strings.Contains(out, "no agent runs here") {
		t.Errorf("without one:\n%s", out)
	}
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	if out := s.asRoot("protect", "--dry-run"); !strings.Contains(out, "the agent has no controller now") {
		t.Errorf("without a controller:\n%s", out) // it is in another namespace
	}
	s.stop()
	if got := describeAgent(host.Status{Link: host.LinkStatus{Connected: true}}, nil); !strings.Contains(got, "is connected") {
		t.Errorf("connected: %s", got)
	}
}

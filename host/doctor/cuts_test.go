//go:build linux

package doctor

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

func TestWhatRulesCutIsToldBefore(t *testing.T) {
	lan := testkit.NewSwitch(t)
	machine, near, far := lan.Attach(t, "192.0.2.1/24"), lan.Attach(t, "192.0.2.7/24"), lan.Attach(t, "192.0.2.9/24")
	for _, line := range [][]string{
		{"ip", "link", "add", "virbr0", "type", "bridge"}, {"ip", "link", "set", "virbr0", "up"},
		{"ip", "address", "add", "10.9.0.1/24", "dev", "virbr0"},
		{"ip", "link", "add", "docker0", "type", "bridge"}, {"ip", "link", "set", "docker0", "up"},
		{"ip", "address", "add", "10.8.0.1/24", "dev", "docker0"},
	} {
		machine.Run(t, line[0], line[1:]...)
	}
	var l net.Listener
	machine.Do(t, func() {
		var err error
		l, err = net.Listen("tcp4", "0.0.0.0:8022")
		must(t, err)
	})
	t.Cleanup(func() { l.Close() })
	for _, from := range []*testkit.Namespace{near, far} {
		from.Do(t, func() {
			c, err := net.Dial("tcp4", "192.0.2.1:8022")
			must(t, err)
			t.Cleanup(func() { c.Close() })
		})
	}
	settings := newPatient(t).settings
	find := func(keep ...firewall.Keep) (c Cuts) {
		t.Helper()
		machine.Do(t, func() {
			var err error
			c, err = FindCuts(t.Context(), Config{Settings: settings}, firewall.Rules{Keep: keep, Inside: []string{"virbr*", "docker*"}})
			must(t, err)
		})
		return c
	}
	admin := firewall.Keep{Source: netip.MustParsePrefix("192.0.2.7/32"),
		Ports: []firewall.Port{{Protocol: firewall.TCP, Number: 8022}}}
	c := find(admin)
	if len(c.Live) != 1 || c.Live[0] != (Live{Port: 8022, Source: netip.MustParseAddr("192.0.2.9")}) {
		t.Errorf("connections: %+v", c.Live)
	}
	if len(c.Forwarding) != 0 || !slices.Equal(c.Guests, []string{"virbr0"}) {
		t.Errorf("it forwards nothing: %+v", c)
	}
	machine.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	c = find(firewall.Keep{Interface: "virbr*", Ports: guestPorts()}, admin)
	if len(c.Forwarding) != 1 || c.Forwarding[0] == "virbr0" || len(c.Guests) != 0 {
		t.Errorf("it forwards, and keeps its guests: %+v", c)
	}
}

package firewall_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

func pinhole(protocol firewall.Protocol, source string, port uint16) firewall.Pinhole {
	p := firewall.Pinhole{Protocol: protocol, Port: port, TTL: time.Minute}
	if source != "" {
		p.Source = netip.MustParseAddr(source)
	}
	return p
}

func TestPinholesThatCannotBeInstalledAreRefused(t *testing.T) {
	for _, test := range []struct {
		pinhole firewall.Pinhole
		want    error
	}{
		{pinhole(firewall.TCP, "192.0.2.1", 22), nil},
		{pinhole(firewall.UDP, "2001:db8::1", 65535), nil},
		{pinhole(firewall.UDP, "fe80::1", 1), nil},
		{firewall.Pinhole{}, firewall.ErrProtocol},
		{pinhole(1, "192.0.2.1", 22), firewall.ErrProtocol},
		{pinhole(firewall.TCP, "", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "::ffff:192.0.2.1", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "fe80::1%eth0", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "0.0.0.0", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "::", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "224.0.0.1", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "ff02::1", 22), firewall.ErrSource},
		{pinhole(firewall.TCP, "192.0.2.1", 0), firewall.ErrPort},
	} {
		if err := test.pinhole.Validate(); !errors.Is(err, test.want) {
			t.Errorf("%v: %v, want %v", test.pinhole, err, test.want)
		}
		for _, c := range []firewall.Change{
			{Open: []firewall.Pinhole{test.pinhole}}, {Revoke: []firewall.Pinhole{test.pinhole}}} {
			if err := c.Validate(); !errors.Is(err, test.want) {
				t.Errorf("%v: %v, want %v", c, err, test.want)
			}
		}
	}
}

func TestAChangeIsBounded(t *testing.T) {
	p := pinhole(firewall.TCP, "192.0.2.1", 22)
	c := firewall.Change{Open: make([]firewall.Pinhole, firewall.MaxChange-1),
		Revoke: []firewall.Pinhole{p}}
	for i := range c.Open {
		c.Open[i] = p
	}
	if err := c.Validate(); err != nil {
		t.Errorf("%d pinholes: %v", firewall.MaxChange, err)
	}
	c.Revoke = append(c.Revoke, p)
	if err := c.Validate(); !errors.Is(err, firewall.ErrTooMany) {
		t.Errorf("%d pinholes: %v, want ErrTooMany", firewall.MaxChange+1, err)
	}
}

func TestRulesThatCannotBeInstalledAreRefused(t *testing.T) {
	port := func(p firewall.Protocol, n uint16) []firewall.Port {
		return []firewall.Port{{Protocol: p, Number: n}}
	}
	keep := func(source string, ports []firewall.Port) firewall.Rules {
		k := firewall.Keep{Ports: ports}
		if source != "" {
			k.Source = netip.MustParsePrefix(source)
		}
		return firewall.Rules{Keep: []firewall.Keep{k}}
	}
	for _, test := range []struct {
		rules firewall.Rules
		want  error
	}{
		{firewall.Rules{}, nil},
		{firewall.Rules{OpenPorts: port(firewall.UDP, 4040)}, nil},
		{firewall.Rules{OpenPorts: port(2, 4040)}, firewall.ErrProtocol},
		{firewall.Rules{OpenPorts: port(firewall.UDP, 0)}, firewall.ErrPort},
		{keep("192.0.2.0/24", nil), nil},
		{keep("2001:db8::/32", port(firewall.TCP, 22)), nil},
		{keep("", nil), firewall.ErrSource},
		{keep("::ffff:192.0.2.0/120", nil), firewall.ErrSource},
		{keep("192.0.2.0/24", port(firewall.TCP, 0)), firewall.ErrPort},
	} {
		if err := test.rules.Validate(); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", test.rules, err, test.want)
		}
	}
}

func TestPinholesReadWell(t *testing.T) {
	p := pinhole(firewall.UDP, "192.0.2.1", 4042)
	if got, want := p.String(), "udp 192.0.2.1 port * -> :4042 (1m0s)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.SourcePort = 7
	if got, want := p.String(), "udp 192.0.2.1 port 7 -> :4042 (1m0s)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	other := p
	other.TTL = time.Hour
	if p.Opening() != other.Opening() || p == other {
		t.Error("pinholes that differ in TTL are not the same opening")
	}
}

package control

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/postern-sdp/postern/spa"
)

func TestTheFamilyThatTheKnockCameThroughByIsTriedFirst(t *testing.T) {
	six, four := netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("192.0.2.1:443")
	outer := netip.MustParseAddrPort("198.51.100.7:443")
	a := Answer{
		Grant:  &spa.Grant{Addresses: []netip.AddrPort{six, four}},
		Server: netip.AddrPortFrom(outer.Addr(), 4040),
	}
	if got, want := fmt.Sprint(candidates(a)), fmt.Sprint([]netip.AddrPort{four, outer, six}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a.Server = netip.AddrPortFrom(six.Addr(), 4040)
	if got, want := fmt.Sprint(candidates(a)), fmt.Sprint([]netip.AddrPort{six, four}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

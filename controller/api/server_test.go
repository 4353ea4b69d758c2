package api

import (
	"net"
	"net/netip"
	"testing"
)

// TestASourceHasTheFormThatTheDoorKnows: mapped IPv4 and zones are the socket's, not the
// caller's. With them, nobody who came over a link-local address was let in.
func TestASourceHasTheFormThatTheDoorKnows(t *testing.T) {
	for text, want := range map[string]string{
		"[fe80::1%eth0]:5": "[fe80::1]:5", "[::ffff:192.0.2.1]:5": "192.0.2.1:5", "[2001:db8::1]:5": "[2001:db8::1]:5",
	} {
		from := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(text))
		if got := addrPort(from).String(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

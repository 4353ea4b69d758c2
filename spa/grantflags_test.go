package spa

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/spa/key"
)

func exampleGrant() *Grant {
	return &Grant{
		Session: key.NewID(), Deadline: time.Unix(1_800_000_000, 0), Knock: key.NewHostKnock(), Host: key.NewID(),
		Addresses: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:5432")},
	}
}

func TestAGrantsFlagsSurviveTheWire(t *testing.T) {
	for f := GrantFlags(0); f <= knownFlags; f++ {
		g := exampleGrant()
		g.Flags = f
		if f&FlagDirect != 0 {
			g.KnockPort = 4042
		}
		b, err := appendReply(nil, Reply{Time: time.Unix(1_700_000_000, 0), Grant: g})
		if err != nil {
			t.Fatalf("flags %03b: %v", f, err)
		}
		got, err := parseReply(b)
		if err != nil {
			t.Fatalf("flags %03b: %v", f, err)
		}
		if got.Grant.Flags != f || got.Grant.KnockPort != g.KnockPort ||
			!cmp.Equal(got.Grant.Addresses, g.Addresses, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })) {
			t.Errorf("flags %03b became %+v", f, got.Grant)
		}
	}
}

// PROTOCOL 4.4 PROTOCOL 4.5
func TestFlagsThatAreNoneAreRefused(t *testing.T) {
	for _, bad := range []struct {
		flags GrantFlags
		port  uint16
	}{{1 << 3, 0}, {1 << 7, 0}, {FlagDirect, 0}, {FlagUDP, 4042}, {0, 4042}, {FlagDirect | 1<<4, 4042}} {
		g := exampleGrant()
		b, err := appendReply(nil, Reply{Time: time.Unix(1_700_000_000, 0), Grant: g})
		if err != nil {
			t.Fatal(err)
		}
		at := replyHeadSize + grantSize - 3
		forged := bytes.Clone(b)
		forged[at], forged[at+1], forged[at+2] = byte(bad.flags), byte(bad.port>>8), byte(bad.port)
		if _, err := parseReply(forged); !errors.Is(err, ErrReply) {
			t.Errorf("flags %08b, knock port %d were read: %v", bad.flags, bad.port, err)
		}
		g.Flags, g.KnockPort = bad.flags, bad.port
		if _, err := appendReply(nil, Reply{Time: time.Unix(1_700_000_000, 0), Grant: g}); !errors.Is(err, ErrGrant) {
			t.Errorf("flags %08b, knock port %d were written: %v", bad.flags, bad.port, err)
		}
		forged = bytes.Clone(b)
		forged[at-1] = 1 // in the place of the second address
		if _, err := parseReply(forged); !errors.Is(err, ErrReply) {
			t.Errorf("bytes in an empty place were read: %v", err)
		}
	}
}

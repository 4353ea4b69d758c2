package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
)

func TestKeepSectionsBecomeRules(t *testing.T) {
	now := time.Date(2026, 12, 31, 18, 0, 0, 0, time.FixedZone("", 3600))
	lan := netip.MustParsePrefix("192.0.2.0/24")
	for name, test := range map[string]struct {
		keep Keep
		want []firewall.Keep
		err  string
	}{
		"a source": {keep: Keep{Source: "192.0.2.7/24"}, want: []firewall.Keep{{Source: lan}}},
		"an interface": {keep: Keep{Interface: "br-*", Ports: []string{"udp/53"}}, want: []firewall.Keep{
			{Interface: "br-*", Ports: []firewall.Port{{Protocol: firewall.UDP, Number: 53}}}}},
		"until a time": {keep: Keep{Source: "192.0.2.0/24", Until: "2026-12-31T17:30:00Z"},
			want: []firewall.Keep{{Source: lan, TTL: 30 * time.Minute}}},
		"the day still counts": {keep: Keep{Source: "192.0.2.0/24", Until: "2026-12-31"},
			want: []firewall.Keep{{Source: lan, TTL: 6 * time.Hour}}},
		"over":               {keep: Keep{Source: "192.0.2.0/24", Until: "2026-12-30"}},
		"over this moment":   {keep: Keep{Source: "192.0.2.0/24", Until: "2026-12-31T17:00:00Z"}},
		"neither":            {keep: Keep{Ports: []string{"tcp/22"}}, err: "neither source nor interface"},
		"no prefix":          {keep: Keep{Source: "home"}, err: `source "home"`},
		"no port":            {keep: Keep{Source: "192.0.2.0/24", Ports: []string{"22"}}, err: `ports "22"`},
		"no date":            {keep: Keep{Source: "192.0.2.0/24", Until: "tomorrow"}, err: `until "tomorrow"`},
		"no day of the year": {keep: Keep{Source: "192.0.2.0/24", Until: "2026-02-30"}, err: `until "2026-02-30"`},
	} {
		got, err := KeepRules([]Keep{test.keep}, now)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "number 1") {
				t.Errorf("%s: %v, want one that says %q and which section", name, err, test.err)
			}
			continue
		}
		same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(test.want, got, same); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if test.keep.Expired(now) != (len(test.want) == 0) {
			t.Errorf("%s: Expired is wrong", name)
		}
	}
}

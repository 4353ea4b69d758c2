//go:build linux

package testkit_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

func TestNamespacesOnASwitchReachEachOther(t *testing.T) {
	testkit.NoLeak(t)
	lan := testkit.NewSwitch(t)
	a := lan.Attach(t, "192.0.2.1/24", "2001:db8::1/64")
	b := lan.Attach(t, "192.0.2.2/24", "2001:db8::2/64")
	for _, address := range []string{"192.0.2.1:0", "[2001:db8::1]:0"} {
		var l net.Listener
		a.Do(t, func() {
			var err error
			if l, err = net.Listen("tcp", address); err != nil {
				t.Fatal(err)
			}
		})
		b.Do(t, func() {
			c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
		l.Close()
	}
}

func TestDoComesBack(t *testing.T) {
	n := testkit.Netns(t)
	here := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	before := here()
	var inside string
	n.Do(t, func() { inside = here() })
	if inside == before {
		t.Error("Do ran outside")
	}
	if after := here(); after != before {
		t.Errorf("Do left the thread in %s, was %s", after, before)
	}
	if links := n.Run(t, "ip", "-o", "link"); strings.Count(links, "\n") != 1 {
		t.Errorf("a new namespace has more than loopback:\n%s", links)
	}
}

//go:build linux

package nft

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// TestLostAnswersDoNotConfuseTheNextCall lets the kernel's answers overflow the
// socket: the library then stops reading in the middle of them.
func TestLostAnswersDoNotConfuseTheNextCall(t *testing.T) {
	var f *Firewall
	var err error
	testkit.Netns(t).Do(t, func() { f, err = New(Config{}) })
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Install(t.Context(), firewall.Rules{}); err != nil {
		t.Fatal(err)
	}
	if err := f.socket.SetReadBuffer(1); err != nil { // the kernel's least
		t.Fatal(err)
	}
	if err := f.Install(t.Context(), firewall.Rules{}); !errors.Is(err, syscall.ENOBUFS) {
		t.Fatalf("install without room for the answers: %v, want ENOBUFS", err)
	}
	if err := f.socket.SetReadBuffer(receiveBuffer); err != nil {
		t.Fatal(err)
	}
	p := firewall.Pinhole{Protocol: firewall.UDP, Source: netip.MustParseAddr("192.0.2.1"),
		Port: 4042, TTL: time.Minute}
	if err := f.Apply(t.Context(), firewall.Change{Open: []firewall.Pinhole{p}}); err != nil {
		t.Errorf("apply: %v", err)
	}
	if got, err := f.List(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("list: %v, %v", got, err)
	}
}

//go:build linux

package nft

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// TestAChangeHasOneAnswerHoweverManyMessages: waiting for more made slow openings slower.
func TestAChangeHasOneAnswerHoweverManyMessages(t *testing.T) {
	var change firewall.Change
	source := netip.MustParseAddr("2001:db8::")
	for range 2*perMessage + 1 {
		source = source.Next()
		change.Open = append(change.Open, firewall.Pinhole{Protocol: firewall.UDP, Source: source,
			SourcePort: 40000, Port: 4042, TTL: time.Minute})
	}
	var w wire
	for range 2 { // the second one takes the memory of the first
		makeBatch(change).write(&w, "postern")
	}
	messages, err := syscall.ParseNetlinkMessage(w.data)
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 + 3*3 + 1; len(messages) != want { // begin, end; add, delete, add in three parts; the door
		t.Errorf("%d messages, want %d", len(messages), want)
	}
	for i, m := range messages {
		asked := m.Header.Flags&unix.NLM_F_ACK != 0
		if last := i == len(messages)-2; asked != last {
			t.Errorf("message %d of %d asks for an answer: %t", i, len(messages), asked)
		}
		if m.Header.Seq != uint32(i+1) {
			t.Errorf("message %d has the number %d", i, m.Header.Seq)
		}
		if _, err := netlink.UnmarshalAttributes(m.Data[4:]); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
}

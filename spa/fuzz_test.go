package spa

import (
	"bytes"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// seed adds what the vectors of one type hold, opened where that is possible, and
// fails when there is nothing.
func seed(f *testing.F, kind string, open func(v vector) []byte) {
	f.Helper()
	n := 0
	for _, v := range loadVectors(f) {
		if v.headers["type"] != kind || len(v.packet) != Size {
			continue
		}
		if plain := open(v); plain != nil {
			f.Add(plain)
			f.Add(plain[:len(plain)-1])
			n++
		}
	}
	if n < 5 {
		f.Fatalf("only %d seeds of type %s: the corpus in testdata is gone", n, kind)
	}
}

// FuzzParseRequest: whatever parses is written back byte for byte, and a refusal
// yields nothing.
func FuzzParseRequest(f *testing.F) {
	seed(f, "knock", func(v vector) []byte {
		rx, secret := v.receiver(f)
		plain, _ := rx.open(secret, v.packet)
		return plain
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseRequest(b)
		if !ok {
			if r != (Request{}) {
				t.Errorf("refused, and yet %+v", r)
			}
			return
		}
		again, err := appendRequest([]byte("foo"), r)
		if err != nil || !bytes.Equal(again, append([]byte("foo"), b...)) {
			t.Errorf("parsed %x\nwrote  %x (%v)", b, again, err)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	seed(f, "reply", func(v vector) []byte {
		plain, _ := v.pending(f).open(v.packet)
		return plain
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b)
		if err != nil {
			if r != (Reply{}) {
				t.Errorf("refused, and yet %+v", r)
			}
			return
		}
		again, err := appendReply(nil, r)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("parsed %x\nwrote  %x (%v)", b, again, err)
		}
	})
}

func FuzzParseHostBody(f *testing.F) {
	seed(f, "host-knock", func(v vector) []byte {
		rx, secret := v.hostReceiver(f)
		return rx.open(secret, v.packet)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, at, ok := parseHostBody(b)
		if !ok {
			if !id.IsZero() || !at.IsZero() {
				t.Error("refused, and yet a value")
			}
			return
		}
		if again := appendHostBody(nil, id, at); !bytes.Equal(again, b) {
			t.Errorf("parsed %x\nwrote  %x", b, again)
		}
	})
}

// FuzzReceive feeds both receivers whole datagrams: all the vectors and what grows
// out of them. Nothing may panic, and only the vectors themselves get in.
func FuzzReceive(f *testing.F) {
	valid := make(map[string]bool)
	var rx *KnockReceiver
	var hosts *HostKnockReceiver
	for _, v := range loadVectors(f) {
		switch {
		case v.name == "knock-access.txt":
			rx, _ = v.receiver(f)
		case v.name == "host-knock.txt":
			hosts, _ = v.hostReceiver(f)
		}
		f.Add(v.packet, int64(0))
		f.Add(v.packet, int64(time.Hour))
		if v.headers["expect"] != "hint" {
			valid[string(v.packet)] = true
		}
	}
	if rx == nil || hosts == nil {
		f.Fatal("the corpus in testdata is gone")
	}
	f.Fuzz(func(t *testing.T, datagram []byte, off int64) {
		now := testTime.Add(time.Duration(off))
		rx.guard, hosts.guard = onceGuard{}, onceGuard{}
		accepted, reason := rx.Receive(datagram, now)
		if (accepted != nil) != (reason == ReasonOK) || reason == ReasonNone {
			t.Errorf("%v with reason %s", accepted, reason)
		}
		id, hostReason := hosts.Receive(datagram, now)
		if id.IsZero() != (hostReason != ReasonOK) || hostReason == ReasonNone {
			t.Errorf("%s with reason %s", id, hostReason)
		}
		if (reason == ReasonOK || hostReason == ReasonOK) && !valid[string(datagram)] {
			t.Errorf("accepted a datagram that nobody made: %s, %s", reason, hostReason)
		}
		if may := hosts.MayBeKnock(datagram, now); !may && hostReason > ReasonHint {
			t.Errorf("not taken for a host knock, and yet %s", hostReason)
		}
	})
}

var _ Guard = onceGuard{}

// TestTheReceiversShareNoSecret: a knock is no host knock and the other way round,
// should one secret ever be used as both.
func TestTheReceiversShareNoSecret(t *testing.T) {
	b := newBench(t)
	same, err := key.HostKnockFromBytes(b.knock.RevealBytes())
	if err != nil {
		t.Fatal(err)
	}
	sessions := NewTable[key.HostKnock](testTime)
	sessions.Put(b.device, same)
	hosts := NewHostKnockReceiver(b.device, sessions, onceGuard{})
	packet, _ := b.seal(t, b.request())
	if _, reason := hosts.Receive(packet, testTime); reason != ReasonHint {
		t.Errorf("a knock as a host knock: %s, want hint", reason)
	}
	host := SealHostKnock(same, b.device, b.device, testTime)
	if _, reason := b.rx.Receive(host, testTime); reason != ReasonHint {
		t.Errorf("a host knock as a knock: %s, want hint", reason)
	}
}

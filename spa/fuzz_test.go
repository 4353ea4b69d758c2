package spa

import (
	"bytes"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// FuzzParseRequest: whatever parses is written back byte for byte, and a refusal
// yields nothing.
func FuzzParseRequest(f *testing.F) {
	plain, err := appendRequest(nil, Request{Kind: KindAccess, Service: "ssh", Time: testTime})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(plain[:100])
	f.Add(make([]byte, knockPlainSize))
	f.Add(bytes.Repeat([]byte{1}, knockPlainSize))
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
	denial, err := appendReply(nil, Reply{Time: testTime, Denial: &Denial{CodeBusy, "later"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(denial)
	for _, v := range loadVectors(f) {
		f.Add(v.packet)
	}
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
	f.Add(appendHostBody(nil, key.NewID(), testTime))
	f.Add(make([]byte, hostPlainSize))
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

// FuzzReceive feeds both receivers whole datagrams: all the vectors and what
// grows out of them. Nothing may panic, and only the vectors themselves get in.
func FuzzReceive(f *testing.F) {
	b := newBench(f)
	host := key.NewID()
	sessions := NewTable[key.HostKnock](testTime)
	sessions.Put(key.NewID(), key.NewHostKnock())
	hosts := NewHostKnockReceiver(host, sessions, onceGuard{})
	for _, v := range loadVectors(f) {
		f.Add(v.packet, int64(0))
	}
	packet, _ := b.seal(f, b.request())
	f.Add(packet, int64(time.Hour))
	f.Fuzz(func(t *testing.T, datagram []byte, off int64) {
		now := testTime.Add(time.Duration(off))
		accepted, reason := b.rx.Receive(datagram, now)
		if (accepted != nil) != (reason == ReasonOK) || reason == ReasonNone {
			t.Errorf("%v with reason %s", accepted, reason)
		}
		if id, reason := hosts.Receive(datagram, now); reason == ReasonOK || !id.IsZero() {
			t.Errorf("a host knock nobody made was accepted: %s", reason)
		}
	})
}

package spa

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/spa/key"
)

const emergencyUses = 10 // of the vectors' key

// emergencyReceiver returns the receiver that a vector of type emergency is for.
func (v vector) emergencyReceiver(t testing.TB) (*EmergencyReceiver, EmergencyKey) {
	t.Helper()
	secret, err := key.EmergencyFromBytes(v.bytes(t, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := key.ParseID(v.headers["audience"])
	if err != nil {
		t.Fatal(err)
	}
	uses, err := strconv.ParseUint(v.headers["uses"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	k := EmergencyKey{
		ID: key.ID(v.bytes(t, "id")), Verifier: secret.Verifier(), Service: v.headers["service"],
		Uses: uses,
	}
	rx := NewEmergencyReceiver(host)
	rx.Set([]EmergencyKey{k})
	return rx, k
}

func checkEmergency(t *testing.T, v vector) {
	rx, k := v.emergencyReceiver(t)
	if v.headers["again"] == "yes" {
		first, reason := rx.Receive(v.packet)
		if reason != ReasonOK {
			t.Fatalf("the first time: %s", reason)
		}
		k.Used = first.Counter
		rx.Set([]EmergencyKey{k})
	}
	got, reason := rx.Receive(v.packet)
	if reason.String() != v.headers["expect"] {
		t.Fatalf("reason %s, want %s", reason, v.headers["expect"])
	}
	if reason != ReasonOK {
		if got != (EmergencyKnock{}) {
			t.Errorf("refused, and yet %+v", got)
		}
		return
	}
	if got.Key.String() != v.headers["id"] || got.Service != v.headers["service"] ||
		strconv.FormatUint(got.Counter, 10) != v.headers["counter"] {
		t.Errorf("opened %+v", got)
	}
}

// emergencies adds the vectors of type emergency.
func (g *generator) emergencies() {
	secret := must(key.EmergencyFromBytes(fixed("emergency")))
	nonce := [nonceSize]byte(fixed("emergency nonce")[:nonceSize])
	base := EmergencyKnock{Key: fixedID("emergency key"), Counter: 3, Service: "ssh-web1"}
	good := sealEmergency(secret, g.host, base, nonce)
	add := func(name, expect, about string, packet []byte, headers ...string) {
		rule, about, _ := strings.Cut(about, " ")
		g.add(name, packet, append([]string{
			"about", about, "rule", rule, "type", "emergency", "expect", expect,
			"audience", g.host.String(), "secret", hex.EncodeToString(fixed("emergency")),
			"id", base.Key.String(), "service", base.Service, "uses", strconv.Itoa(emergencyUses),
		}, headers...)...)
	}
	seal := func(host key.ID, e EmergencyKnock) []byte { return sealEmergency(secret, host, e, nonce) }
	// forge makes a datagram with what the host has: everything but the signing key.
	forge := func(change func(plain []byte)) []byte {
		hint := good[:hintSize]
		plain := appendEmergencyBody(nil, base)
		copy(plain[emergencySigned:], secret.Sign(emergencySignedParts(hint, g.host, plain)...))
		change(plain)
		return sealEmergencyBody(secret.Verifier(), g.host, base.Counter, hint, plain, nonce)
	}
	body := func(name, about string, at int, b byte) {
		add(name, "body", about, forge(func(p []byte) { p[at] = b }))
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }

	add("emergency", "ok", "9.1 the third use of a key", good, "counter", "3")
	last := base
	last.Counter = emergencyUses
	add("emergency-last-use", "ok", "9.4 the last use of a key, the ones before it skipped",
		seal(g.host, last), "counter", strconv.Itoa(emergencyUses))
	add("emergency-again", "hint", "9.4 the same for the second time", good, "again", "yes")
	beyond := base
	beyond.Counter = emergencyUses + 1
	add("emergency-beyond-uses", "hint", "9.4 one use more than the key has", seal(g.host, beyond))
	add("emergency-short", "size", "6.1 one byte short", good[:Size-1])
	add("emergency-hint-flipped", "hint", "9.4 first bit of the hint flipped", flip(0))
	add("emergency-nonce-flipped", "mac", "9.1 a bit of the nonce flipped", flip(hintSize))
	add("emergency-mac-flipped", "mac", "9.1 last bit of the mac flipped", flip(Size-1))
	add("emergency-other-host", "mac", "9.1 sealed for another host", seal(g.device, base))
	broken := bytes.Clone(good[:authenticated])
	broken[60] ^= 1
	add("emergency-body-forged", "seal", "6.5 right mac, broken body",
		secret.Verifier().MACKey().MAC(broken, broken, []byte(g.host.String())))
	body("emergency-version-2", "9.3 version 2", 0, 2)
	body("emergency-kind-2", "9.3 kind 2", 1, 2)
	body("emergency-service-length", "9.3 a name of 64 bytes", 26, maxService+1)
	body("emergency-service-tail", "9.3 a byte behind the name set", 27+maxService-1, 1)
	body("emergency-service-empty", "9.3 no name", 26, 0)
	body("emergency-padding", "9.3 last byte of the padding set", hostPlainSize-1, 1)
	add("emergency-counter-0", "body", "9.3 counter 0",
		forge(func(p []byte) { clear(p[18:26]) }))
	add("emergency-other-counter", "owner", "9.5 the body has another counter than the hint",
		forge(func(p []byte) { binary.BigEndian.PutUint64(p[18:], 4) }))
	add("emergency-other-service", "owner", "9.5 the body names another service",
		forge(func(p []byte) { copy(p[27:], "ssh-web2") }))
	add("emergency-other-key", "owner", "9.5 the body names another key",
		forge(func(p []byte) { p[2] ^= 1 }))
	add("emergency-not-signed", "signature", "9.2 a signature of zeros",
		forge(func(p []byte) { clear(p[emergencySigned : emergencySigned+key.SignatureSize]) }))
	add("emergency-signed-for-another-host", "signature", "9.2 the signature is for another host",
		forge(func(p []byte) {
			parts := emergencySignedParts(good[:hintSize], g.device, p)
			copy(p[emergencySigned:], secret.Sign(parts...))
		}))
}

func FuzzParseEmergencyBody(f *testing.F) {
	seed(f, "emergency", func(v vector) []byte {
		rx, k := v.emergencyReceiver(f)
		return rx.open(emergencyUse{&k, 3}, v.packet)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, signature, ok := parseEmergencyBody(b)
		if !ok {
			if e != (EmergencyKnock{}) || signature != nil {
				t.Error("refused, and yet a value")
			}
			return
		}
		again := appendEmergencyBody([]byte("foo"), e)[3:]
		copy(again[emergencySigned:], signature)
		if !bytes.Equal(again, b) {
			t.Errorf("parsed %x\nwrote  %x", b, again)
		}
	})
}

// FuzzReceiveEmergency: nothing panics, and only what a key's owner made gets in.
func FuzzReceiveEmergency(f *testing.F) {
	var rx *EmergencyReceiver
	made := make(map[string]bool)
	for _, v := range loadVectors(f) {
		if v.headers["type"] != "emergency" {
			continue
		}
		f.Add(v.packet)
		if v.headers["expect"] == "ok" || v.headers["again"] != "" {
			made[string(v.packet)] = true
			rx, _ = v.emergencyReceiver(f)
		}
	}
	if rx == nil {
		f.Fatal("the corpus in testdata is gone")
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		e, reason := rx.Receive(datagram)
		if (e == EmergencyKnock{}) != (reason != ReasonOK) || reason == ReasonNone {
			t.Errorf("%+v with reason %s", e, reason)
		}
		if reason == ReasonOK && !made[string(datagram)] {
			t.Errorf("accepted a datagram that nobody made: %x", datagram)
		}
		if may := rx.MayBeEmergency(datagram); !may && reason > ReasonHint {
			t.Errorf("not taken for an emergency knock, and yet %s", reason)
		}
	})
}

// TestWhatTheHostKeepsMakesNoEmergencyKnock: a thief of the host's file has all keys
// but the one that signs. PROTOCOL 9.2
func TestWhatTheHostKeepsMakesNoEmergencyKnock(t *testing.T) {
	secret, thief := key.NewEmergency(), key.NewEmergency()
	host := key.NewID()
	e := EmergencyKnock{Key: key.NewID(), Counter: 1, Service: "ssh"}
	rx := NewEmergencyReceiver(host)
	rx.Set([]EmergencyKey{{ID: e.Key, Verifier: secret.Verifier(), Service: "ssh", Uses: 1}})
	stolen, err := key.ParseEmergencyVerifier(secret.Verifier().Reveal())
	if err != nil {
		t.Fatal(err)
	}
	hint := binary.BigEndian.AppendUint64(nil, stolen.HintKey().Hint(1))
	plain := appendEmergencyBody(nil, e)
	copy(plain[emergencySigned:], thief.Sign(emergencySignedParts(hint, host, plain)...))
	forged := sealEmergencyBody(stolen, host, 1, hint, plain, [nonceSize]byte{})
	if _, reason := rx.Receive(forged); reason != ReasonSignature {
		t.Errorf("the thief's knock: %s, want signature", reason)
	}
	packet, err := SealEmergency(secret, host, e)
	if err != nil {
		t.Fatal(err)
	}
	if got, reason := rx.Receive(packet); reason != ReasonOK || got != e {
		t.Errorf("the owner's: %+v, %s", got, reason)
	}
}

func TestAnEmergencyCounterBurnsThoseBeforeIt(t *testing.T) {
	secret, host := key.NewEmergency(), key.NewID()
	k := EmergencyKey{ID: key.NewID(), Verifier: secret.Verifier(), Service: "ssh", Uses: 5}
	rx := NewEmergencyReceiver(host)
	k.Used = 3
	rx.Set([]EmergencyKey{k})
	for counter := uint64(1); counter <= 5; counter++ {
		packet, err := SealEmergency(secret, host, EmergencyKnock{k.ID, counter, "ssh"})
		if err != nil {
			t.Fatal(err)
		}
		want := ReasonHint
		if counter > 3 {
			want = ReasonOK
		}
		if _, reason := rx.Receive(packet); reason != want {
			t.Errorf("counter %d: %s, want %s", counter, reason, want)
		}
	}
}

func TestGarbageCostsAnEmergencyReceiverOneLookup(t *testing.T) {
	secret, host := key.NewEmergency(), key.NewID()
	rx := NewEmergencyReceiver(host)
	rx.Set([]EmergencyKey{{ID: key.NewID(), Verifier: secret.Verifier(), Service: "ssh", Uses: 100}})
	garbage := make([]byte, Size)
	if allocs := testing.AllocsPerRun(100, func() { rx.MayBeEmergency(garbage) }); allocs != 0 {
		t.Errorf("%v allocations for a stranger's packet", allocs)
	}
}

func TestAnEmergencyKnockThatNoHostCouldTakeIsNotMade(t *testing.T) {
	id := key.NewID()
	for name, e := range map[string]EmergencyKnock{
		"counter 0":   {id, 0, "ssh"},
		"counter 101": {id, MaxEmergencyCounter + 1, "ssh"},
		"no service":  {id, 1, ""},
		"long":        {id, 1, strings.Repeat("s", maxService+1)},
		"no key":      {key.ID{}, 1, "ssh"},
	} {
		if _, err := SealEmergency(key.NewEmergency(), id, e); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

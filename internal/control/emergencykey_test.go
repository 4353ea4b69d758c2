package control

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

func sampleEmergency() EmergencyKey {
	return EmergencyKey{
		Host: key.NewID(), Name: "web1", Addresses: []string{"web1.example:4042", "[2001:db8::1]:4042"},
		ID: key.NewID(), Service: "ssh", Port: ServicePort{TransportTCP, 22}, For: 15 * time.Minute,
		Uses: 10, Secret: key.NewEmergency(),
	}
}

func TestAnEmergencyKeyArrivesAsItWasMade(t *testing.T) {
	want := sampleEmergency()
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text, " \n\"'$`\\") || !strings.HasPrefix(text, "postern-emergency:") {
		t.Errorf("%q cannot be pasted into a shell", text)
	}
	got, err := ParseEmergencyKey("\n " + text + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Secret.Equal(want.Secret) {
		t.Error("the secret changed")
	}
	got.Secret, want.Secret = key.Emergency{}, key.Emergency{}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAnEmergencyKeyCopiedWrongIsRefusedAndNotQuoted(t *testing.T) {
	k := sampleEmergency()
	text, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(text) {
		if _, err := ParseEmergencyKey(text[:n]); !errors.Is(err, ErrEmergencyKey) {
			t.Fatalf("the first %d of %d characters: %v", n, len(text), err)
		}
	}
	for n := len(emergencyPrefix); n < len(text)-1; n++ {
		other := byte('A')
		if text[n] == other {
			other = 'B'
		}
		wrong := text[:n] + string(other) + text[n+1:]
		if _, err := ParseEmergencyKey(wrong); err == nil {
			t.Fatalf("character %d changed, and accepted", n)
		} else if strings.Contains(err.Error(), text[40:60]) {
			t.Fatalf("the error quotes it: %v", err)
		}
	}
}

func TestAnEmergencyKeyOfANewerVersionSaysSo(t *testing.T) {
	b := []byte(`{"v":2,"anything":true}`)
	sum := sha256.Sum256(b)
	text := emergencyPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:emergencyChecksum]...))
	if _, err := ParseEmergencyKey(text); !errors.Is(err, ErrEmergencyVersion) {
		t.Errorf("got %v", err)
	}
}

func TestAnEmergencyKeyThatMakesNoSenseIsNotMade(t *testing.T) {
	for name, change := range map[string]func(k *EmergencyKey){
		"no host":           func(k *EmergencyKey) { k.Host = key.ID{} },
		"no secret":         func(k *EmergencyKey) { k.Secret = key.Emergency{} },
		"no service":        func(k *EmergencyKey) { k.Service = "" },
		"a terminal's code": func(k *EmergencyKey) { k.Service = "ssh\x1b[2J" },
		"a long service":    func(k *EmergencyKey) { k.Service = strings.Repeat("s", 64) },
		"port 0":            func(k *EmergencyKey) { k.Port.Port = 0 },
		"no transport":      func(k *EmergencyKey) { k.Port.Transport = "sctp" },
		"for ever":          func(k *EmergencyKey) { k.For = MaxEmergencyFor + time.Second },
		"for nothing":       func(k *EmergencyKey) { k.For = 0 },
		"half a second":     func(k *EmergencyKey) { k.For = 1500 * time.Millisecond },
		"no use":            func(k *EmergencyKey) { k.Uses = 0 },
		"101 uses":          func(k *EmergencyKey) { k.Uses = 101 },
		"no address":        func(k *EmergencyKey) { k.Addresses = nil },
		"no port":           func(k *EmergencyKey) { k.Addresses = []string{"web1"} },
	} {
		k := sampleEmergency()
		change(&k)
		if text, err := k.Encode(); err == nil {
			t.Errorf("%s: made %q", name, text)
		}
	}
}

func TestAnEmergencyKeyDoesNotPrintItsSecret(t *testing.T) {
	k := sampleEmergency()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		text := fmt.Sprintf(verb, k)
		if strings.Contains(text, hex.EncodeToString(k.Secret.RevealBytes())) ||
			strings.Contains(text, strings.Trim(fmt.Sprint(k.Secret.RevealBytes()), "[]")) {
			t.Errorf("%s shows it", verb)
		}
	}
}

func TestAServicePortHasOneForm(t *testing.T) {
	for _, text := range []string{"", "22", "tcp/", "tcp/0", "tcp/022", "tcp/65536", "TCP/22", "icmp/1", "tcp/22/1"} {
		if p, err := ParseServicePort(text); err == nil {
			t.Errorf("%q is %v", text, p)
		}
	}
	if p, err := ParseServicePort("udp/53"); err != nil || p.String() != "udp/53" {
		t.Errorf("got %v, %v", p, err)
	}
}

func FuzzParseEmergencyKey(f *testing.F) {
	text, err := sampleEmergency().Encode()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, emergencyPrefix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-emergencyChecksum])
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, body []byte) { // with the right sum, or nothing gets far
		sum := sha256.Sum256(body)
		text := emergencyPrefix + base64.RawURLEncoding.EncodeToString(append(body, sum[:emergencyChecksum]...))
		k, err := ParseEmergencyKey(text)
		if err != nil {
			return
		}
		again, err := k.Encode()
		if err != nil {
			t.Fatalf("parsed and not encoded: %v", err)
		}
		if _, err := ParseEmergencyKey(again); err != nil {
			t.Fatalf("encoded and not parsed: %v", err)
		}
	})
}

package control

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

func invitation(t testing.TB, token JoinToken) string {
	t.Helper()
	text, err := token.Invitation()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// fixedToken is the one of testdata/invitations.txt.
func fixedToken(t testing.TB) JoinToken {
	t.Helper()
	fill := func(b byte) []byte { return bytes.Repeat([]byte{b}, key.Size) }
	knock, err := key.KnockFromBytes(fill(0x22))
	if err != nil {
		t.Fatal(err)
	}
	return JoinToken{
		Controller: "gate.example", Addresses: []string{"gate.example:4040"},
		PublicKey: key.ControllerPublic(fill(0x33)), Token: key.ID(fill(0x11)[:16]), Knock: knock,
		Role: RoleClient, Expires: time.Unix(1_900_000_000, 0), RootPin: [32]byte(fill(0x44)),
	}
}

func sameToken(a, b JoinToken) bool {
	same := a.Knock.Equal(b.Knock) && a.Expires.Equal(b.Expires)
	a.Knock, b.Knock, a.Expires, b.Expires = key.Knock{}, key.Knock{}, time.Time{}, time.Time{}
	return same && reflect.DeepEqual(a, b)
}

func TestAnInvitationIsTheJoinTokenAsALink(t *testing.T) {
	for _, addresses := range [][]string{
		{"gate.example:4040"}, {"192.0.2.1:1", "[2001:db8::1]:65535"}, {"other.example:4040", "gate.example:53"},
		{"[2001:DB8::1]:4040", "[fe80::1%eth0]:9", "[::ffff:192.0.2.1]:4040"},
		strings.Split(strings.Repeat("gate.example:4040 ", maxAddresses-1)+"192.0.2.1:443", " "),
	} {
		for _, role := range []Role{RoleClient, RoleHost} {
			want := sampleToken()
			want.Controller, want.Addresses, want.Role = "gate.example", addresses, role
			text := invitation(t, want)
			got, err := ParseJoinToken("\n " + text + " \r\n")
			if err != nil || !sameToken(got, want) {
				t.Errorf("%v: got %+v, %v", addresses, got, err)
			}
			if !strings.HasPrefix(text, "postern://gate.example/") || strings.ContainsAny(text, " \"'$`\\!*?[&;#") {
				t.Errorf("%q cannot be pasted into a shell", text)
			}
		}
	}
}

func TestAnInvitationIsShortEnoughForATerminalsQRCode(t *testing.T) {
	const most = 230 // bytes of a version 9 code at level L: 53 modules, 61 columns with its edge
	if n := len(invitation(t, fixedToken(t))); n > most {
		t.Errorf("it has %d characters, want at most %d", n, most)
	}
}

func TestACutInvitationIsSaidToBeCut(t *testing.T) {
	text := invitation(t, sampleToken())
	for n := len(invitationPrefix); n < len(text); n++ {
		got, err := ParseJoinToken(text[:n])
		if !errors.Is(err, ErrInvitationShort) || !errors.Is(err, ErrJoinToken) || got.Controller != "" {
			t.Fatalf("the first %d of %d characters: %v", n, len(text), err)
		}
	}
}

func TestEveryWrongCharacterOfAnInvitationIsNoticed(t *testing.T) {
	text := invitation(t, sampleToken())
	for i := range text {
		for _, r := range []byte{'A', '-', '9', 'z', '/', '\n', '%', text[i] ^ 0x20, text[i] ^ 1} {
			bad := text[:i] + string(r) + text[i+1:]
			if _, err := ParseJoinToken(bad); bad != text && strings.TrimSpace(bad) != text && err == nil {
				t.Fatalf("%q in place %d of %q was accepted", r, i, text)
			}
		}
		twice := text[:i] + text[i:i+1] + text[i:]
		if _, err := ParseJoinToken(twice); err == nil {
			t.Fatalf("a character too many in place %d was accepted", i)
		}
	}
}

// The vectors are docs/PROTOCOL.md's: each block of the file is one.
func TestInvitationVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/invitations.txt")
	if err != nil {
		t.Fatal(err)
	}
	expect := map[string]error{
		"ok": nil, "short": ErrInvitationShort, "damaged": ErrInvitationDamaged, "newer": ErrJoinTokenVersion,
	}
	seen := map[string]int{}
	for block := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			v[name] = value
		}
		want, known := expect[v["expect"]]
		got, err := ParseJoinToken(v["text"])
		if !known || v["text"] == "" || !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: got %v, want %q", v["about"], err, v["expect"])
			continue
		}
		seen[v["expect"]]++
		if want == nil && fields(got) != v["fields"] {
			t.Errorf("%s:\ngot  %s\nwant %s", v["about"], fields(got), v["fields"])
		}
	}
	if seen["ok"] < 3 || seen["damaged"] < 8 || seen["short"] < 2 || seen["newer"] < 1 {
		t.Errorf("the file has only %v", seen)
	}
}

// fields is a token as the vectors spell it: role, expiry, id, secret, key, pin, addresses.
func fields(t JoinToken) string {
	return strings.Join([]string{
		t.Controller, string(t.Role), strconv.FormatInt(t.Expires.Unix(), 10), t.Token.String(),
		hex.EncodeToString(t.Knock.RevealBytes()), hex.EncodeToString(t.PublicKey[:]),
		hex.EncodeToString(t.RootPin[:]), strings.Join(t.Addresses, ","),
	}, " ")
}

// resealed is an invitation with other bytes and a checksum that is right all the same.
func resealed(t testing.TB, change func(b []byte) []byte) string {
	t.Helper()
	head, body, _ := strings.Cut(strings.TrimPrefix(invitation(t, fixedToken(t)), invitationPrefix), "/")
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	raw = change(raw[:len(raw)-invitationChecksum])
	sum := invitationSum(head, raw)
	return invitationPrefix + head + "/" + base64.RawURLEncoding.EncodeToString(append(raw, sum[:]...))
}

func TestAnInvitationHasOneSpelling(t *testing.T) {
	const addresses = 2 + 4 + 16 + 32 + 32 + 32 // where their number stands
	at := func(i int, with ...byte) func([]byte) []byte {
		return func(b []byte) []byte { return append(b[:i:i], with...) }
	}
	set := func(i int, to byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = to; return b }
	}
	name := func(host string, port byte) []byte {
		return append(append([]byte{1, addressName, byte(len(host))}, host...), 0, port)
	}
	for about, change := range map[string]func([]byte) []byte{
		"version 0":                         set(0, 0),
		"role 0":                            set(1, 0),
		"role 3":                            set(1, 3),
		"no address":                        at(addresses, 0),
		"an address of no kind":             at(addresses, 1, 4, 0, 9),
		"port 0":                            at(addresses, 1, addressController, 0, 0),
		"the controller's name in full":     at(addresses, name("gate.example", 9)...),
		"an IPv4 address as a name":         at(addresses, name("192.0.2.1", 9)...),
		"an IPv6 address as a name":         at(addresses, name("2001:db8::1", 9)...),
		"an empty name":                     at(addresses, name("", 9)...),
		"a name for no terminal":            at(addresses, name("a\x1b[2J", 9)...),
		"a byte behind the last address":    func(b []byte) []byte { return append(b, 0) },
		"nine addresses":                    at(addresses, append([]byte{9}, bytes.Repeat([]byte{0, 15, 200}, 9)...)...),
		"a secret of zeros":                 func(b []byte) []byte { clear(b[22:54]); return b },
		"a public key of zeros":             func(b []byte) []byte { clear(b[54:86]); return b },
		"an id of zeros":                    func(b []byte) []byte { clear(b[6:22]); return b },
		"no expiry":                         func(b []byte) []byte { clear(b[2:6]); return b },
		"a pin of zeros":                    func(b []byte) []byte { clear(b[86:118]); return b },
		"fewer addresses than are promised": set(addresses, 0),
	} {
		if got, err := ParseJoinToken(resealed(t, change)); !errors.Is(err, ErrInvitationDamaged) {
			t.Errorf("%s: %v, %v", about, got.Addresses, err)
		}
	}
	if _, err := ParseJoinToken(resealed(t, set(1, 2))); err != nil {
		t.Errorf("the test's own way of changing an invitation is at fault: %v", err)
	}
	if _, err := ParseJoinToken(resealed(t, set(0, 2))); !errors.Is(err, ErrJoinTokenVersion) {
		t.Errorf("version 2: %v", err)
	}
}

func TestWhatNoLinkCanCarryIsNotInvitedTo(t *testing.T) {
	odd := sampleToken()
	odd.Controller = "Gate_[1]"
	if _, err := odd.Invitation(); !errors.Is(err, ErrInvitationName) {
		t.Errorf("an odd name: %v", err)
	}
	late := sampleToken()
	late.Expires = time.Unix(1<<32, 0)
	if _, err := late.Invitation(); err == nil {
		t.Error("an expiry was cut off")
	}
	long := sampleToken()
	long.Addresses = []string{strings.Repeat("a", 256) + ":1"}
	if _, err := long.Invitation(); !errors.Is(err, ErrJoinTokenLong) {
		t.Errorf("a name whose length fits no byte: %v", err)
	}
	if _, err := (JoinToken{}).Invitation(); !errors.Is(err, ErrJoinToken) {
		t.Errorf("an empty token: %v", err)
	}
}

func FuzzParseInvitation(f *testing.F) {
	f.Add(strings.TrimPrefix(invitation(f, fixedToken(f)), invitationPrefix))
	f.Add("gate.example/AQE")
	f.Add("")
	f.Fuzz(func(t *testing.T, rest string) {
		text := invitationPrefix + rest
		got, err := ParseJoinToken(text)
		if err != nil {
			if !got.Token.IsZero() || got.Controller != "" || strings.Contains(err.Error(), rest) && len(rest) > 20 {
				t.Errorf("a value beside the error, or a secret in it: %v", err)
			}
			return
		}
		if again := invitation(t, got); again != strings.TrimSpace(text) {
			t.Errorf("two spellings of one invitation:\n%q\n%q", text, again)
		}
		if other, err := ParseJoinToken(encode(t, got)); err != nil || !sameToken(other, got) {
			t.Errorf("it is no join token: %v", err)
		}
	})
}

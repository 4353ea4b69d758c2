package key

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// marked are secrets whose bytes are easy to find.
func marked(t *testing.T) (Knock, HostKnock, ControllerPrivate, []byte) {
	t.Helper()
	b := bytes.Repeat([]byte{0xA7}, Size)
	k, err1 := KnockFromBytes(b)
	h, err2 := HostKnockFromBytes(b)
	c, err3 := ControllerPrivateFromBytes(b)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return k, h, c, b
}

func TestSecretsDoNotPrint(t *testing.T) {
	k, h, c, b := marked(t)
	type holder struct {
		K    Knock
		H    HostKnock
		C    ControllerPrivate
		S    Subkey
		E    Emergency
		V    EmergencyVerifier
		priv Knock
	}
	e, err := EmergencyFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	held := holder{k, h, c, k.MACKey(), e, e.Verifier(), k}
	verifier := *held.V.s.mustBytes()
	subkey := *held.S.AEADKey()
	forms := func(b []byte) []string {
		decimal := strings.Trim(strings.ReplaceAll(fmt.Sprint(b[:4]), "[", ""), "[]")
		return []string{hex.EncodeToString(b[:4]), strings.ToUpper(hex.EncodeToString(b[:4])),
			base64.StdEncoding.EncodeToString(b[:6]), decimal, string(b[:4])}
	}
	leaks := append(forms(b), forms(subkey[:])...)
	leaks = append(leaks, forms(verifier[:])...)
	for _, value := range []any{
		k, &k, h, &h, c, &c, e, &e, e.Verifier(), held, &held, []holder{held}, map[string]Knock{"k": k},
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb, value)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", value)
		j, _ := json.Marshal(value)
		out.Write(j)
		for _, leak := range leaks {
			if strings.Contains(out.String(), leak) {
				t.Errorf("%T shows %q", value, leak)
			}
		}
	}
}

func TestSecretsCannotBeComparedByAccident(t *testing.T) {
	for _, v := range []any{Knock{}, HostKnock{}, ControllerPrivate{}, Subkey{},
		Emergency{}, EmergencyVerifier{}} {
		if reflect.TypeOf(v).Comparable() {
			t.Errorf("%T can be compared with ==, which is not in constant time", v)
		}
	}
}

func TestAKeyOfOneRoleDoesNotParseAsAnother(t *testing.T) {
	k, h, c, _ := marked(t)
	e := NewEmergency()
	texts := map[string]string{
		"emergency": e.Reveal(), "verifier": e.Verifier().Reveal(),
		"knock": k.Reveal(), "host knock": h.Reveal(),
		"private": c.Reveal(), "public": c.Public().String(),
	}
	parsers := map[string]func(string) error{
		"knock":      func(s string) error { _, err := ParseKnock(s); return err },
		"host knock": func(s string) error { _, err := ParseHostKnock(s); return err },
		"private":    func(s string) error { _, err := ParseControllerPrivate(s); return err },
		"emergency":  func(s string) error { _, err := ParseEmergency(s); return err },
		"verifier":   func(s string) error { _, err := ParseEmergencyVerifier(s); return err },
		"public":     func(s string) error { _, err := ParseControllerPublic(s); return err },
	}
	for from, text := range texts {
		for to, parse := range parsers {
			if err := parse(text); (err == nil) != (from == to) {
				t.Errorf("%s parsed as %s: %v", from, to, err)
			}
		}
	}
}

// PROTOCOL 2.1 is the last check.
func TestParseErrorsDoNotQuoteSecrets(t *testing.T) {
	const marker = "5ec4e7"
	for _, text := range []string{
		marker, prefixKnock + marker, prefixKnock + strings.Repeat(marker, 11),
		prefixKnock + marker + strings.Repeat("z", 58),
	} {
		if _, err := ParseKnock(text); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := KnockFromBytes(make([]byte, Size)); !errors.Is(err, ErrZero) {
		t.Errorf("all zero: %v", err)
	}
}

func TestTextFormsRoundTrip(t *testing.T) {
	k, h, c := NewKnock(), NewHostKnock(), NewControllerPrivate()
	k2, err1 := ParseKnock(k.Reveal())
	h2, err2 := ParseHostKnock(h.Reveal())
	c2, err3 := ParseControllerPrivate(c.Reveal())
	p2, err4 := ParseControllerPublic(c.Public().String())
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if !k.Equal(k2) || !h.Equal(h2) || !c.Equal(c2) || c.Public() != p2 {
		t.Error("a key changed on its way through text")
	}
	if k.Equal(NewKnock()) || (Knock{}).Equal(k) || !(Knock{}).Equal(Knock{}) {
		t.Error("Equal is wrong")
	}
}

func TestAZeroKeyPanicsInsteadOfWorking(t *testing.T) {
	for name, use := range map[string]func(){
		"knock":   func() { Knock{}.MACKey() },
		"private": func() { ControllerPrivate{}.Public() },
		"subkey":  func() { Subkey{}.MAC(nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			use()
		}()
	}
}

func TestEveryDerivedKeyIsAnother(t *testing.T) {
	k, h, _, _ := marked(t)
	seen := make(map[[Size]byte]string)
	for name, s := range map[string]Subkey{
		"knock hint": k.HintKey(), "knock mask": k.MaskKey(), "knock mac": k.MACKey(),
		"host hint": h.HintKey(), "host mac": h.MACKey(), "host seal": h.SealKey(),
	} {
		if other, ok := seen[*s.AEADKey()]; ok {
			t.Errorf("%s and %s are the same key", name, other)
		}
		seen[*s.AEADKey()] = name
	}
}

func TestIDs(t *testing.T) {
	id := NewID()
	got, err := ParseID(id.String())
	if err != nil || got != id || id.IsZero() || !(ID{}).IsZero() {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{
		"", id.String()[1:], id.String() + "0", strings.Repeat("g", 32), id.String()[:31] + "é",
	} {
		if _, err := ParseID(bad); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzParse: whatever parses is written back letter for letter, but for the case of
// the digits, and a refusal yields nothing.
func FuzzParse(f *testing.F) {
	k, h, c := NewKnock(), NewHostKnock(), NewControllerPrivate()
	for _, text := range []string{
		k.Reveal(), h.Reveal(), c.Reveal(), c.Public().String(), NewID().String(),
		"", prefixKnock, k.Reveal()[:len(prefixKnock)+63], prefixHostKnock + strings.Repeat("0", 64),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, errK := ParseKnock(text)
		h, errH := ParseHostKnock(text)
		c, errC := ParseControllerPrivate(text)
		p, errP := ParseControllerPublic(text)
		id, errID := ParseID(text)
		for name, got := range map[string]struct {
			err  error
			zero bool
			text func() string
		}{
			"knock":      {errK, k.IsZero(), func() string { return k.Reveal() }},
			"host knock": {errH, h.IsZero(), func() string { return h.Reveal() }},
			"private":    {errC, c.IsZero(), func() string { return c.Reveal() }},
			"public":     {errP, p.IsZero(), func() string { return p.String() }},
			"id":         {errID, false, func() string { return id.String() }},
		} {
			switch {
			case got.err == nil && (got.zero || !strings.EqualFold(got.text(), text)):
				t.Errorf("%s: parsed another text than it writes", name)
			case got.err != nil && !got.zero && name != "id":
				t.Errorf("%s: refused, and yet a value", name)
			}
		}
	})
}

package control

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

func sampleToken() JoinToken {
	return JoinToken{
		Controller: "ctl.example", Addresses: []string{"ctl.example:4040", "[2001:db8::1]:4040"},
		PublicKey: key.NewControllerPrivate().Public(), Token: key.NewID(), Knock: key.NewKnock(),
		Role: RoleClient, Expires: time.Unix(1_900_000_000, 0), RootPin: [32]byte{1, 2, 3},
	}
}

func encode(t testing.TB, token JoinToken) string {
	t.Helper()
	text, err := token.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAJoinTokenArrivesAsItWasMade(t *testing.T) {
	want := sampleToken()
	text := encode(t, want)
	if strings.ContainsAny(text, " \n\"'$`\\") || !strings.HasPrefix(text, "postern-join:") {
		t.Errorf("%q cannot be pasted into a shell", text)
	}
	got, err := ParseJoinToken(" \n" + text + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Knock.Equal(want.Knock) || !got.Expires.Equal(want.Expires) {
		t.Error("the secret or the expiry changed")
	}
	got.Knock, want.Knock = key.Knock{}, key.Knock{}
	got.Expires, want.Expires = time.Time{}, time.Time{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAJoinTokenCutShortIsRefused(t *testing.T) {
	text := encode(t, sampleToken())
	for n := range len(text) {
		if got, err := ParseJoinToken(text[:n]); err == nil || got.Controller != "" {
			t.Fatalf("the first %d of %d characters were accepted", n, len(text))
		}
	}
}

// changed encodes a token with one field of its text form replaced.
func changed(t *testing.T, field string, value any) string {
	t.Helper()
	body, _ := strings.CutPrefix(encode(t, sampleToken()), joinTokenPrefix)
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	if _, ok := fields[field]; !ok {
		t.Fatalf("there is no field %q", field)
	}
	fields[field] = value
	if value == nil {
		delete(fields, field)
	}
	if raw, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return joinTokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func TestAJoinTokenThatMakesNoSenseIsRefused(t *testing.T) {
	zeroes := make([]byte, 32)
	many := strings.Split(strings.Repeat("a:1 ", maxAddresses+1), " ")[:maxAddresses+1]
	for _, c := range []struct {
		field string
		value any
		want  error
	}{
		{"v", 2, ErrJoinTokenVersion},
		{"v", 0, ErrJoinToken},
		{"c", "", ErrJoinToken},
		{"c", strings.Repeat("c", 65), ErrJoinToken},
		{"c", "ctl\x1b[2J", ErrJoinToken},
		{"a", []string{"<script>:1"}, ErrJoinToken},
		{"a", []string{}, ErrJoinToken},
		{"a", many, ErrJoinToken},
		{"a", []string{"ctl.example"}, ErrJoinToken},
		{"a", []string{"ctl.example:0"}, ErrJoinToken},
		{"a", []string{"ctl.example:65536"}, ErrJoinToken},
		{"a", []string{"ctl.example:"}, ErrJoinToken},
		{"a", []string{":4040"}, ErrJoinToken},
		{"k", nil, ErrJoinToken},
		{"t", key.ID{}, ErrJoinToken},
		{"s", zeroes, ErrJoinToken},
		{"s", zeroes[:31], ErrJoinToken},
		{"r", "controller", ErrJoinToken},
		{"r", "root", ErrJoinToken},
		{"e", 0, ErrJoinToken},
		{"p", zeroes, ErrJoinToken},
		{"p", zeroes[:31], ErrJoinToken},
		{"p", nil, ErrJoinToken},
	} {
		if _, err := ParseJoinToken(changed(t, c.field, c.value)); !errors.Is(err, c.want) {
			t.Errorf("%s = %v: %v, want %v", c.field, c.value, err, c.want)
		}
	}
	if _, err := ParseJoinToken(changed(t, "c", "other.example")); err != nil {
		t.Errorf("the test's own way of changing a token is at fault: %v", err)
	}
	if _, err := ParseJoinToken(joinTokenPrefix + strings.Repeat("A", maxJoinToken)); err == nil {
		t.Error("an endless token was accepted")
	}
}

func TestWhatCannotBeParsedIsNotEncoded(t *testing.T) {
	long := sampleToken()
	long.Addresses = []string{strings.Repeat("a", 250) + ":4040"}
	for len(long.Addresses) < maxAddresses {
		long.Addresses = append(long.Addresses, long.Addresses[0])
	}
	if text, err := long.Encode(); err == nil {
		if _, err := ParseJoinToken(text); err != nil {
			t.Errorf("a token was made that does not parse: %v", err)
		}
	}
	if _, err := (JoinToken{}).Encode(); !errors.Is(err, ErrJoinToken) {
		t.Errorf("an empty token: %v", err)
	}
}

func TestAJoinTokensSecretIsNeverPrinted(t *testing.T) {
	token := sampleToken()
	raw := token.Knock.RevealBytes()
	forms := []string{
		hex.EncodeToString(raw), strings.Trim(fmt.Sprint(raw), "[]"),
		base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&shown, verb+verb, token, &token)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "token", token)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("x", "token", token)
	for _, bad := range []string{"v", "c", "a", "r", "e", "p"} {
		_, err := ParseJoinToken(changed(t, bad, strings.Repeat("marker", 20)))
		if err == nil || strings.Contains(err.Error(), "marker") {
			t.Errorf("field %s: error %v", bad, err)
		}
		fmt.Fprint(&shown, err)
	}
	for _, form := range forms {
		if strings.Contains(strings.ToLower(shown.String()), strings.ToLower(form)) {
			t.Errorf("printed: %s", form)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(encode(f, sampleToken()))
	f.Add("postern-join:e30")
	f.Add("postern-join:")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseJoinToken(text)
		if err != nil {
			if !got.Token.IsZero() || got.Controller != "" {
				t.Error("a value beside the error")
			}
			return
		}
		again, err := ParseJoinToken(encode(t, got))
		if err != nil || again.Token != got.Token || !again.Knock.Equal(got.Knock) {
			t.Errorf("what was parsed does not encode: %v", err)
		}
	})
}

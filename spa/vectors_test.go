package spa

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// The vectors are pinned: -update adds those that are missing and changes none.
var update = flag.Bool("update", false, "write the vectors that testdata lacks")

// vector is one file of testdata: headers, a blank line, the datagram in
// hexadecimal. docs/PROTOCOL.md explains the headers.
type vector struct {
	name    string
	headers map[string]string
	packet  []byte
}

var vectorHeaders = []string{
	"about", "rule", "type", "expect", "again", "audience", "private", "secret", "id", "now",
	"counter", "uses", "kind", "service", "session", "duration", "claimed", "time",
	"ephemeral", "knock", "code", "text", "deadline", "host-secret", "pin", "host", "address",
	"flags", "knock-port",
}

// vectorExpects is the closed list of outcomes: a Reason, or what a reply is.
var vectorExpects = []string{
	"ok", "size", "hint", "mac", "replay", "seal", "body", "owner", "time",
	"signature", "grant", "denial", "not-a-reply",
}

func (v vector) text() []byte {
	var b bytes.Buffer
	for _, h := range vectorHeaders {
		if value, ok := v.headers[h]; ok {
			fmt.Fprintf(&b, "%s: %s\n", h, value)
		}
	}
	b.WriteByte('\n')
	for rest := v.packet; len(rest) > 0; rest = rest[min(32, len(rest)):] {
		fmt.Fprintf(&b, "%x\n", rest[:min(32, len(rest))])
	}
	return b.Bytes()
}

func parseVector(name string, text []byte) (vector, error) {
	head, body, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return vector{}, fmt.Errorf("%s: no blank line", name)
	}
	v := vector{name: name, headers: make(map[string]string)}
	for _, line := range strings.Split(head, "\n") {
		k, value, ok := strings.Cut(line, ": ")
		if !ok || !slices.Contains(vectorHeaders, k) || v.headers[k] != "" {
			return vector{}, fmt.Errorf("%s: unknown, double or malformed header %q", name, line)
		}
		v.headers[k] = value
	}
	if !slices.Contains(vectorExpects, v.headers["expect"]) {
		return vector{}, fmt.Errorf("%s: expect %q is not in the list", name, v.headers["expect"])
	}
	var err error
	v.packet, err = hex.DecodeString(strings.ReplaceAll(body, "\n", ""))
	return v, err
}

func loadVectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 25 {
		t.Fatalf("found %d vectors: %v", len(files), err)
	}
	var all []vector
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseVector(filepath.Base(f), text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(v.text(), text) {
			t.Errorf("%s has another form than the loader would write", f)
		}
		all = append(all, v)
	}
	return all
}

func (v vector) bytes(t testing.TB, header string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.headers[header])
	if err != nil || len(b) == 0 {
		t.Fatalf("%s: %s: %v", v.name, header, err)
	}
	return b
}

func (v vector) time(t testing.TB, header string) time.Time {
	t.Helper()
	ns, err := strconv.ParseInt(v.headers[header], 10, 64)
	if err != nil {
		t.Fatalf("%s: %s: %v", v.name, header, err)
	}
	return time.Unix(0, ns)
}

func TestVectors(t *testing.T) {
	reached := make(map[string]int)
	positive, all := 0, loadVectors(t)
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			switch v.headers["type"] {
			case "knock":
				checkKnock(t, v)
			case "host-knock":
				checkHostKnock(t, v)
			case "emergency":
				checkEmergency(t, v)
			case "reply":
				checkReply(t, v)
			default:
				t.Fatalf("no such type %q", v.headers["type"])
			}
		})
		expect := v.headers["expect"]
		reached[expect]++
		if slices.Contains([]string{"ok", "grant", "denial"}, expect) {
			positive++
		}
	}
	if negative := len(all) - positive; negative <= positive {
		t.Errorf("%d positive and %d negative vectors: want more negative ones", positive, negative)
	}
	for reason := ReasonNone + 1; reason < ReasonCount; reason++ {
		if reason == ReasonPace { // no one datagram's: pace_test.go
			continue
		}
		if reached[reason.String()] == 0 {
			t.Errorf("no vector ends with reason %s", reason)
		}
	}
}

func TestALoaderOfVectorsRefusesWhatItDoesNotKnow(t *testing.T) {
	const good = "about: x\ntype: knock\nexpect: ok\n\n00ff\n"
	if _, err := parseVector("good", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a header":       {"about:", "abuot:"},
		"an outcome":     {"ok", "okay"},
		"a header twice": {"type: knock", "about: y"},
		"no body":        {"\n\n", "\n"},
		"a digit":        {"00ff", "00fg"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if _, err := parseVector(name, []byte(bad)); err == nil {
			t.Errorf("%s: loaded %q", name, bad)
		}
	}
}

// receiver returns the receiver that a vector of type knock is for.
func (v vector) receiver(t testing.TB) (*KnockReceiver, key.Knock) {
	t.Helper()
	private, err := key.ControllerPrivateFromBytes(v.bytes(t, "private"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.KnockFromBytes(v.bytes(t, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable[key.Knock](v.time(t, "now"))
	table.Put(key.ID(v.bytes(t, "id")), secret)
	rx, err := NewKnockReceiver(v.headers["audience"], private, table, onceGuard{})
	if err != nil {
		t.Fatal(err)
	}
	return rx, secret
}

func checkKnock(t *testing.T, v vector) {
	rx, _ := v.receiver(t)
	now := v.time(t, "now")
	if v.headers["again"] == "yes" {
		rx.Receive(v.packet, now)
	}
	got, reason := rx.Receive(v.packet, now)
	if reason.String() != v.headers["expect"] {
		t.Fatalf("reason %s, want %s", reason, v.headers["expect"])
	}
	if reason != ReasonOK {
		return
	}
	have := requestHeaders(got.Request)
	for i := 0; i < len(have); i += 2 {
		if v.headers[have[i]] != have[i+1] {
			t.Errorf("%s: opened %q, want %q", have[i], have[i+1], v.headers[have[i]])
		}
	}
}

// requestHeaders are the headers that say what a knock holds.
func requestHeaders(r Request) []string {
	claimed := "none"
	if r.Claimed.IsValid() {
		claimed = r.Claimed.String()
	}
	return []string{
		"kind", strconv.Itoa(int(r.Kind)), "service", r.Service, "session", r.Session.String(),
		"duration", strconv.Itoa(int(r.Duration / time.Second)), "claimed", claimed,
		"time", strconv.FormatInt(r.Time.UnixNano(), 10),
	}
}

// hostReceiver returns the receiver that a vector of type host-knock is for.
func (v vector) hostReceiver(t testing.TB) (*HostKnockReceiver, key.HostKnock) {
	t.Helper()
	secret, err := key.HostKnockFromBytes(v.bytes(t, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := key.ParseID(v.headers["audience"])
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable[key.HostKnock](v.time(t, "now"))
	table.Put(key.ID(v.bytes(t, "id")), secret)
	return NewHostKnockReceiver(host, table, onceGuard{}), secret
}

func checkHostKnock(t *testing.T, v vector) {
	rx, _ := v.hostReceiver(t)
	now := v.time(t, "now")
	if v.headers["again"] == "yes" {
		rx.Receive(v.packet, now)
	}
	session, reason := rx.Receive(v.packet, now)
	if reason.String() != v.headers["expect"] {
		t.Errorf("reason %s, want %s", reason, v.headers["expect"])
	}
	ok := reason == ReasonOK
	if ok != (session.String() == v.headers["id"]) || ok == session.IsZero() {
		t.Errorf("session %s with reason %s", session, reason)
	}
}

// pending returns the sender's end of the knock that a vector of type reply answers.
func (v vector) pending(t testing.TB) *Pending {
	t.Helper()
	private, err := key.ControllerPrivateFromBytes(v.bytes(t, "private"))
	if err != nil {
		t.Fatal(err)
	}
	ephemeral, err := ecdh.X25519().NewPrivateKey(v.bytes(t, "ephemeral"))
	if err != nil {
		t.Fatal(err)
	}
	shared, err := private.ECDH().ECDH(ephemeral.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return newPending(shared, v.bytes(t, "knock"))
}

func checkReply(t *testing.T, v vector) {
	got, err := v.pending(t).OpenReply(v.packet)
	switch v.headers["expect"] {
	case "grant":
		if err != nil || got.Grant == nil {
			t.Fatalf("got %+v, %v", got, err)
		}
		have := append(grantHeaders(got.Grant), "time", strconv.FormatInt(got.Time.UnixNano(), 10))
		for i := 0; i < len(have); i += 2 {
			if v.headers[have[i]] != have[i+1] {
				t.Errorf("%s: opened %q, want %q", have[i], have[i+1], v.headers[have[i]])
			}
		}
		if g := got.Grant; v.headers["flags"] == "" && (g.Flags != 0 || g.KnockPort != 0) {
			t.Errorf("opened flags %03b, knock port %d, want none", g.Flags, g.KnockPort)
		}
	case "denial":
		if err != nil || got.Denial == nil || strconv.Itoa(int(got.Denial.Code)) != v.headers["code"] ||
			got.Denial.Text != v.headers["text"] {
			t.Errorf("got %+v, %v", got, err)
		}
	default:
		if !errors.Is(err, ErrReply) || got != (Reply{}) {
			t.Errorf("opened: %+v, %v", got, err)
		}
	}
}

// grantHeaders are the headers that say what a grant holds.
func grantHeaders(g *Grant) []string {
	var addresses []string
	for _, a := range g.Addresses {
		addresses = append(addresses, a.String())
	}
	headers := []string{
		"session", g.Session.String(), "deadline", strconv.FormatInt(g.Deadline.UnixNano(), 10),
		"host-secret", hex.EncodeToString(g.Knock.RevealBytes()), "pin", hex.EncodeToString(g.Pin[:]),
		"host", g.Host.String(), "address", strings.Join(addresses, " "),
	}
	if g.Flags != 0 {
		headers = append(headers, "flags", strconv.Itoa(int(g.Flags)),
			"knock-port", strconv.Itoa(int(g.KnockPort)))
	}
	return headers
}

package spa

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// What a receiver would refuse is refused by the sender already, with a reason.
func TestWhatHasNoFormIsNotSealed(t *testing.T) {
	b := newBench(t)
	const century = 100 * 365 * 24 * time.Hour
	mapped := netip.MustParseAddr("::ffff:0.0.0.0")
	for name, c := range map[string]struct {
		change func(r *Request)
		want   error
	}{
		"kind 0":                 {func(r *Request) { r.Kind = 0 }, ErrKind},
		"kind 4":                 {func(r *Request) { r.Kind = 4 }, ErrKind},
		"no service":             {func(r *Request) { r.Service = "" }, ErrService},
		"a long service":         {func(r *Request) { r.Service = strings.Repeat("s", 64) }, ErrService},
		"control of a service":   {func(r *Request) { r.Kind = KindControl }, ErrService},
		"control of a session":   {func(r *Request) { r.Kind, r.Service = KindControl, "" }, ErrSession},
		"the end of nothing":     {func(r *Request) { *r = Request{Kind: KindClose} }, ErrSession},
		"an end with a length":   {func(r *Request) { r.Kind, r.Service = KindClose, "" }, ErrDuration},
		"half a second":          {func(r *Request) { r.Duration = time.Second / 2 }, ErrDuration},
		"a negative length":      {func(r *Request) { r.Duration = -time.Second }, ErrDuration},
		"200 years":              {func(r *Request) { r.Duration = 2 * century }, ErrDuration},
		"no time":                {func(r *Request) { r.Time = time.Time{} }, ErrTime},
		"the year 2300":          {func(r *Request) { r.Time = testTime.AddDate(274, 0, 0) }, ErrTime},
		"from 0.0.0.0":           {func(r *Request) { r.Claimed = netip.IPv4Unspecified() }, ErrClaimed},
		"from ::":                {func(r *Request) { r.Claimed = netip.IPv6Unspecified() }, ErrClaimed},
		"from ::ffff:0.0.0.0":    {func(r *Request) { r.Claimed = mapped }, ErrClaimed},
		"a length on the second": {func(r *Request) { r.Duration = time.Second }, nil},
	} {
		r := b.request()
		c.change(&r)
		packet, pending, err := SealKnock(b.knock, b.private.Public(), testName, r)
		refused := packet == nil && pending == nil
		if !errors.Is(err, c.want) || refused != (c.want != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if out, err := appendRequest([]byte("foo"), r); err != nil && string(out) != "foo" {
			t.Errorf("%s: half a body was left: %q", name, out)
		}
	}
	for _, audience := range []string{"", strings.Repeat("a", 65)} {
		_, _, err := SealKnock(b.knock, b.private.Public(), audience, b.request())
		_, errReceiver := NewKnockReceiver(audience, b.private, b.table, b.guard)
		if !errors.Is(err, ErrAudience) || !errors.Is(errReceiver, ErrAudience) {
			t.Errorf("audience of %d bytes: %v, %v", len(audience), err, errReceiver)
		}
	}
}

// PROTOCOL 3.4
func TestAControllersKeyOfLowOrderIsRefused(t *testing.T) {
	b := newBench(t)
	for _, public := range []key.ControllerPublic{{}, {1}} {
		packet, _, err := SealKnock(b.knock, public, testName, b.request())
		if err == nil || packet != nil {
			t.Errorf("sealed to the key %x", public[:1])
		}
	}
}

func testGrant() *Grant {
	return &Grant{
		Session: key.NewID(), Deadline: testTime.Add(time.Hour), Knock: key.NewHostKnock(),
		Pin: [PinSize]byte{1, 2, 3}, Host: key.NewID(),
		Addresses: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4042")},
	}
}

func TestAReplyWithoutAFormIsNotSealedAndDoesNotCount(t *testing.T) {
	b := newBench(t)
	packet, pending := b.seal(t, b.request())
	accepted, reason := b.rx.Receive(packet, testTime)
	if reason != ReasonOK {
		t.Fatal(reason)
	}
	grant := func(change func(g *Grant)) Reply {
		g := testGrant()
		change(g)
		return Reply{Time: testTime, Grant: g}
	}
	deny := func(code Code, text string) Reply {
		return Reply{Time: testTime, Denial: &Denial{code, text}}
	}
	address := func(s string) Reply {
		return grant(func(g *Grant) { g.Addresses[0] = netip.MustParseAddrPort(s) })
	}
	for name, c := range map[string]struct {
		reply Reply
		want  error
	}{
		"neither":          {Reply{Time: testTime}, ErrReplyForm},
		"both":             {Reply{testTime, testGrant(), &Denial{CodeBusy, ""}}, ErrReplyForm},
		"no time":          {Reply{Denial: &Denial{CodeBusy, ""}}, ErrTime},
		"a long text":      {deny(CodeBusy, strings.Repeat("x", 121)), ErrText},
		"not UTF-8":        {deny(CodeBusy, "\xff"), ErrText},
		"code 0":           {deny(0, "x"), ErrText},
		"no deadline":      {grant(func(g *Grant) { g.Deadline = time.Time{} }), ErrTime},
		"no secret":        {grant(func(g *Grant) { g.Knock = key.HostKnock{} }), ErrGrant},
		"no address":       {grant(func(g *Grant) { g.Addresses = nil }), ErrGrant},
		"three addresses":  {grant(func(g *Grant) { g.Addresses = make([]netip.AddrPort, 3) }), ErrGrant},
		"an empty address": {grant(func(g *Grant) { g.Addresses[0] = netip.AddrPort{} }), ErrGrant},
		"port 0":           {address("192.0.2.1:0"), ErrGrant},
		"0.0.0.0":          {address("0.0.0.0:1"), ErrGrant},
		"::ffff:0.0.0.0":   {address("[::ffff:0.0.0.0]:1"), ErrGrant},
		"::":               {address("[::]:1"), ErrGrant},
	} {
		if sealed, err := accepted.SealReply(c.reply); !errors.Is(err, c.want) || sealed != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if out, _ := appendReply([]byte("foo"), c.reply); string(out) != "foo" {
			t.Errorf("%s: half a reply was left: %q", name, out)
		}
	}
	sealed, err := accepted.SealReply(Reply{Time: testTime, Grant: testGrant()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pending.OpenReply(sealed); err != nil {
		t.Error(err)
	}
}

// Two replies under one key and nonce would show each other's difference. PROTOCOL 4.2
func TestAKnockIsAnsweredOnce(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	accepted, reason := b.rx.Receive(packet, testTime)
	if reason != ReasonOK {
		t.Fatal(reason)
	}
	reply := Reply{Time: testTime, Denial: &Denial{CodeBusy, "later"}}
	if _, err := accepted.SealReply(reply); err != nil {
		t.Fatal(err)
	}
	if sealed, err := accepted.SealReply(reply); !errors.Is(err, ErrAnswered) || sealed != nil {
		t.Errorf("a second answer: %v, want %v", err, ErrAnswered)
	}
}

// PROTOCOL 3.1
func TestEachKnockHasAFreshEphemeralKey(t *testing.T) {
	b := newBench(t)
	r := b.request()
	seen := make(map[[ephemeralSize]byte]bool)
	for range 50 {
		packet, _ := b.seal(t, r)
		mask(b.knock.MaskKey(), packet)
		ephemeral := [ephemeralSize]byte(packet[hintSize : hintSize+ephemeralSize])
		if seen[ephemeral] {
			t.Fatal("two knocks have the same ephemeral key")
		}
		seen[ephemeral] = true
	}
}

func TestEncodersAppend(t *testing.T) {
	b := newBench(t)
	request := b.request()
	for name, encode := range map[string]func(dst []byte) ([]byte, error){
		"knock": func(dst []byte) ([]byte, error) { return appendRequest(dst, request) },
		"host knock": func(dst []byte) ([]byte, error) {
			return appendHostBody(dst, b.device, testTime), nil
		},
		"reply": func(dst []byte) ([]byte, error) {
			return appendReply(dst, Reply{Time: testTime, Denial: &Denial{CodeBusy, "later"}})
		},
	} {
		alone, err1 := encode(nil)
		behind, err2 := encode([]byte("foo"))
		if err := errors.Join(err1, err2); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(behind, append([]byte("foo"), alone...)) {
			t.Errorf("%s: %q is not what is appended to foo", name, behind)
		}
	}
}

// Every prefix of a body is refused, and yields nothing.
func TestEveryPrefixOfABodyIsRefused(t *testing.T) {
	b := newBench(t)
	request := must(appendRequest(nil, b.request()))
	host := appendHostBody(nil, b.device, testTime)
	reply := must(appendReply(nil, Reply{Time: testTime, Grant: testGrant()}))
	for n := range request {
		if r, ok := parseRequest(request[:n]); ok || r != (Request{}) {
			t.Fatalf("knock's body, %d bytes: %+v", n, r)
		}
	}
	for n := range host {
		if id, at, ok := parseHostBody(host[:n]); ok || !id.IsZero() || !at.IsZero() {
			t.Fatalf("host knock's body, %d bytes: %v", n, id)
		}
	}
	for n := range reply {
		if r, err := parseReply(reply[:n]); !errors.Is(err, ErrReply) || r != (Reply{}) {
			t.Fatalf("reply, %d bytes: %+v, %v", n, r, err)
		}
	}
}

func TestWhatHoldsSecretsDoesNotPrintThem(t *testing.T) {
	b := newBench(t)
	packet, pending := b.seal(t, b.request())
	accepted, _ := b.rx.Receive(packet, testTime)
	grant := testGrant()
	sessions := NewTable[key.HostKnock](testTime)
	sessions.Put(grant.Session, grant.Knock)
	hosts := NewHostKnockReceiver(grant.Host, sessions, b.guard)

	mac, replyKey := *b.knock.MACKey().AEADKey(), *pending.replyKey()
	private, err := hex.DecodeString(b.private.Reveal()[len(b.private.Reveal())-2*key.Size:])
	if err != nil {
		t.Fatal(err)
	}
	var leaks []string
	for _, secret := range [][]byte{
		b.knock.RevealBytes(), grant.Knock.RevealBytes(), mac[:], replyKey[:], private,
	} {
		part := secret[:6]
		leaks = append(leaks, hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)),
			base64.StdEncoding.EncodeToString(part), strings.Trim(fmt.Sprint(part), "[]"), string(part),
			strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ","))
	}
	for _, v := range []any{
		pending, accepted, grant, *grant, Reply{Time: testTime, Grant: grant}, b.rx, hosts, b.table,
		sessions, struct{ G *Grant }{grant}, map[string]*Pending{"p": pending},
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p"} {
			fmt.Fprintf(&out, verb, v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		j, _ := json.Marshal(v)
		out.Write(j)
		for _, leak := range leaks {
			if strings.Contains(out.String(), leak) {
				t.Errorf("%T shows %q", v, leak)
			}
		}
	}
}

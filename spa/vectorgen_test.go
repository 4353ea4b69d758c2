package spa

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// TestTheVectorsAreTheGenerators keeps both pinned: a change of either shows.
func TestTheVectorsAreTheGenerators(t *testing.T) {
	made := make(map[string]bool)
	for _, v := range generate() {
		path := filepath.Join("testdata", v.name)
		made[path] = true
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) && *update {
			text = v.text()
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, v.text()) {
			t.Errorf("%s: the generator makes another one; a vector is never changed", path)
		}
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !made[f] {
			t.Errorf("%s: no generator makes it", f)
		}
	}
}

// fixed returns 32 bytes that are the same in every run.
func fixed(name string) []byte {
	b := sha256.Sum256([]byte("postern test vector: " + name))
	return b[:]
}

func fixedID(name string) key.ID { return key.ID(fixed(name)[:key.IDSize]) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// generator makes all vectors out of fixed keys.
type generator struct {
	private   key.ControllerPrivate
	secret    key.Knock
	ephemeral *ecdh.PrivateKey
	device    key.ID
	session   key.ID
	host      key.ID
	hostKnock key.HostKnock
	all       []vector
}

func generate() []vector {
	g := &generator{
		private:   must(key.ControllerPrivateFromBytes(fixed("controller"))),
		secret:    must(key.KnockFromBytes(fixed("device"))),
		ephemeral: must(ecdh.X25519().NewPrivateKey(fixed("ephemeral"))),
		device:    fixedID("device id"), session: fixedID("session"), host: fixedID("host"),
		hostKnock: must(key.HostKnockFromBytes(fixed("host knock"))),
	}
	g.knocks()
	g.forgedKnocks()
	g.bodies()
	g.hostKnocks()
	g.emergencies()
	g.replies()
	return g.all
}

func (g *generator) add(name string, packet []byte, headers ...string) {
	v := vector{name + ".txt", map[string]string{}, packet}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			v.headers[headers[i]] = headers[i+1]
		}
	}
	g.all = append(g.all, v)
}

func (g *generator) request() Request {
	return Request{
		Kind: KindAccess, Device: g.device, Service: "ssh-web1", Time: testTime,
		Claimed: netip.MustParseAddr("192.0.2.7"), Session: g.session, Duration: time.Hour,
	}
}

func (g *generator) seal(audience string, r Request) []byte {
	packet, _, err := sealKnock(g.secret, g.private.Public(), audience, r, g.ephemeral)
	return must(packet, err)
}

// knock adds a vector of a knock. about has the rule in front.
func (g *generator) knock(name, expect, about string, packet []byte, headers ...string) {
	rule, about, _ := strings.Cut(about, " ")
	g.add(name, packet, append([]string{
		"about", about, "rule", rule, "type", "knock", "expect", expect, "audience", testName,
		"private", hex.EncodeToString(fixed("controller")),
		"secret", hex.EncodeToString(fixed("device")), "id", g.device.String(),
		"now", strconv.FormatInt(testTime.UnixNano(), 10),
	}, headers...)...)
}

func (g *generator) knocks() {
	base := g.request()
	good := g.seal(testName, base)
	ok := func(name, about string, r Request) {
		g.knock(name, "ok", about, g.seal(testName, r), requestHeaders(r)...)
	}
	ok("knock-access", "3.2 a knock for a service, to renew a session", base)
	longest := base
	longest.Claimed = netip.MustParseAddr("2001:db8::7")
	longest.Session, longest.Duration = key.ID{}, 0
	longest.Service = strings.Repeat("s", maxService)
	ok("knock-longest-service", "3.7 the longest name, an IPv6 address, no session", longest)
	ok("knock-control-last-epoch", "6.2 for the control API, by a clock 60 s behind",
		Request{Kind: KindControl, Device: g.device, Time: testTime.Add(-Epoch)})
	ok("knock-close-next-epoch", "6.2 the end of a session, by a clock 60 s ahead",
		Request{Kind: KindClose, Device: g.device, Time: testTime.Add(Epoch), Session: g.session})

	at := func(d time.Duration) []byte {
		r := base
		r.Time = testTime.Add(d)
		return g.seal(testName, r)
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	other := base
	other.Device = fixedID("another device")
	g.knock("knock-again", "replay", "6.4 the same knock for the second time", good, "again", "yes")
	g.knock("knock-empty", "size", "6.1 no byte at all", nil)
	g.knock("knock-short", "size", "6.1 one byte short", good[:Size-1])
	g.knock("knock-long", "size", "6.1 one byte long", append(bytes.Clone(good), 0))
	g.knock("knock-empty-hint", "hint", "6.2 a hint of zero", append(make([]byte, 8), good[8:]...))
	g.knock("knock-hint-flipped", "hint", "6.2 first bit of the hint flipped", flip(0))
	g.knock("knock-far-future", "hint", "6.2 by a clock three minutes ahead", at(3*Epoch))
	g.knock("knock-two-epochs-old", "hint", "6.2 by a clock two minutes behind", at(-2*Epoch))
	g.knock("knock-ephemeral-flipped", "mac", "6.3 a bit of the masked key flipped", flip(hintSize))
	g.knock("knock-body-flipped", "mac", "6.3 a bit of the body flipped", flip(100))
	g.knock("knock-mac-flipped", "mac", "6.3 last bit of the mac flipped", flip(Size-1))
	g.knock("knock-other-controller", "mac", "3.2 sealed for another controller's name",
		g.seal("other.example", base))
	g.knock("knock-other-device", "owner", "6.6 the body names another device",
		g.seal(testName, other))
	g.knock("knock-late", "time", "6.7 by a clock 90.001 s ahead, in an acceptable epoch",
		at(Tolerance+time.Millisecond))
}

// remac repairs the mac after a change: the work of someone with a stolen knock secret.
func (g *generator) remac(change func(packet []byte)) []byte {
	packet := g.seal(testName, g.request())[:authenticated]
	change(packet)
	return g.secret.MACKey().MAC(packet, packet, []byte(testName))
}

// withEphemeral replaces the ephemeral key, masked as it should be.
func (g *generator) withEphemeral(u ...byte) []byte {
	return g.remac(func(p []byte) {
		clear(p[hintSize : hintSize+ephemeralSize])
		copy(p[hintSize:], u)
		mask(g.secret.MaskKey(), p)
	})
}

func (g *generator) forgedKnocks() {
	otherKey := must(key.ControllerPrivateFromBytes(fixed("another controller")))
	packet, _, err := sealKnock(g.secret, otherKey.Public(), testName, g.request(), g.ephemeral)
	g.knock("knock-other-key", "seal", "6.5 sealed to another static key", must(packet, err))
	g.knock("knock-body-forged", "seal", "6.5 right mac, broken body: a stolen knock secret alone",
		g.remac(func(p []byte) { p[60] ^= 1 }))
	g.knock("knock-unmasked", "seal", "3.3 right mac, the ephemeral key not masked",
		g.remac(func(p []byte) { mask(g.secret.MaskKey(), p) }))
	g.knock("knock-low-order-key", "seal", "3.4 right mac, ephemeral key of all zeros",
		g.withEphemeral())
	g.knock("knock-low-order-key-one", "seal", "3.4 right mac, ephemeral key 1, of order 4",
		g.withEphemeral(1))
	g.knock("knock-low-order-key-eight", "seal", "3.4 right mac, ephemeral key of order 8",
		g.withEphemeral(must(hex.DecodeString(
			"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"))...))
	g.knock("knock-low-order-key-p", "seal", "3.4 right mac, ephemeral key p, which is 0 again",
		g.withEphemeral(must(hex.DecodeString(
			"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))...))
	// An all-zero shared secret, were it used, would open this one for anybody.
	plain := must(appendRequest(nil, g.request()))
	g.knock("knock-low-order-sealed", "seal",
		"3.4 key of all zeros, body sealed under the zero secret",
		g.resealed(make([]byte, ephemeralSize), make([]byte, key.Size), plain))
}

// resealed seals a plaintext that appendRequest would not write.
func (g *generator) resealed(ephemeral, shared, plain []byte) []byte {
	packet := g.seal(testName, g.request())[:hintSize]
	packet = append(packet, ephemeral...)
	packet = must(sealBody(packet, plain, shared, [ephemeralSize]byte(ephemeral),
		g.private.Public(), testName))
	mask(g.secret.MaskKey(), packet)
	return g.secret.MACKey().MAC(packet, packet, []byte(testName))
}

// Offsets into the body of a knock and of a host knock, for what no encoder writes.
const (
	atVersion  = 0
	atKind     = 1
	atTime     = 18
	atClaimed  = 26
	atSession  = 42
	atDuration = 58
	atLength   = 62
	atService  = 63
	atPadding  = 126
)

func (g *generator) bodies() {
	shared := must(g.private.ECDH().ECDH(g.ephemeral.PublicKey()))
	public := g.ephemeral.PublicKey().Bytes()
	body := func(name, about string, r Request, change func(p []byte)) {
		plain := must(appendRequest(nil, r))
		change(plain)
		g.knock(name, "body", about, g.resealed(public, shared, plain))
	}
	set := func(at int, v byte) func([]byte) { return func(p []byte) { p[at] = v } }
	access := g.request()
	control := Request{Kind: KindControl, Device: g.device, Time: testTime}
	end := Request{Kind: KindClose, Device: g.device, Time: testTime, Session: g.session}

	body("knock-version-0", "3.5 version 0", access, set(atVersion, 0))
	body("knock-version-2", "3.5 version 2", access, set(atVersion, 2))
	body("knock-kind-0", "3.6 kind 0", access, set(atKind, 0))
	body("knock-kind-4", "3.6 kind 4", access, set(atKind, 4))
	body("knock-time-negative", "3.6 a time with the first bit set", access, set(atTime, 0x80))
	body("knock-claimed-unspecified", "3.6 claims ::ffff:0.0.0.0", access,
		func(p []byte) { clear(p[atSession-4 : atSession]) })
	body("knock-padding", "3.6 last byte of the padding set", access, set(knockPlainSize-1, 1))
	body("knock-padding-first", "3.6 first byte of the padding set", access, set(atPadding, 1))
	body("knock-service-tail", "3.6 last byte behind the service's name set", access,
		set(atPadding-1, 1))
	body("knock-service-tail-first", "3.6 the byte behind the service's name set", access,
		set(atService+len(access.Service), 'x'))
	body("knock-service-length", "3.6 a name of 64 bytes", access, set(atLength, maxService+1))
	body("knock-service-cut", "3.6 a name longer than its length", access, set(atLength, 1))
	body("knock-access-nameless", "3.7 access to no service", access,
		func(p []byte) { clear(p[atLength:atPadding]) })
	body("knock-control-service", "3.7 control with a service's name", control, func(p []byte) {
		p[atLength], p[atService] = 1, 's'
	})
	body("knock-control-service-tail", "3.6 control with no name, and a byte in its place", control,
		set(atService, 's'))
	body("knock-control-session", "3.7 control with a session", control, set(atSession, 1))
	body("knock-control-duration", "3.7 control with a length", control, set(atDuration, 1))
	body("knock-close-nothing", "3.7 the end of no session", end,
		func(p []byte) { clear(p[atSession:atDuration]) })
	body("knock-close-duration", "3.7 an end with a length", end, set(atDuration, 1))
}

func (g *generator) hostKnocks() {
	nonce := [nonceSize]byte(fixed("nonce"))
	seal := func(host, session key.ID, at time.Duration) []byte {
		return sealHostKnock(g.hostKnock, host, session, testTime.Add(at), nonce)
	}
	good := seal(g.host, g.session, 0)
	add := func(name, expect, about string, packet []byte, headers ...string) {
		rule, about, _ := strings.Cut(about, " ")
		g.add(name, packet, append([]string{
			"about", about, "rule", rule, "type", "host-knock", "expect", expect,
			"audience", g.host.String(), "secret", hex.EncodeToString(fixed("host knock")),
			"id", g.session.String(), "now", strconv.FormatInt(testTime.UnixNano(), 10),
		}, headers...)...)
	}
	remac := func(change func(packet []byte)) []byte {
		packet := bytes.Clone(good[:authenticated])
		change(packet)
		return g.hostKnock.MACKey().MAC(packet, packet, []byte(g.host.String()))
	}
	body := func(name, about string, at int, v byte) {
		plain := appendHostBody(nil, g.session, testTime)
		plain[at] = v
		aead := must(chacha20poly1305.NewX(g.hostKnock.SealKey().AEADKey()[:]))
		add(name, "body", about, remac(func(p []byte) {
			aead.Seal(p[:hintSize+nonceSize], nonce[:], plain, bodyData(p[:hintSize], g.host.String()))
		}))
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }

	add("host-knock", "ok", "5.1 a host knock", good)
	add("host-knock-again", "replay", "6.4 the same for the second time", good, "again", "yes")
	add("host-knock-short", "size", "6.1 one byte short", good[:Size-1])
	add("host-knock-long", "size", "6.1 one byte long", append(bytes.Clone(good), 0))
	add("host-knock-hint-flipped", "hint", "6.2 first bit of the hint flipped", flip(0))
	add("host-knock-old", "hint", "6.2 three minutes old", seal(g.host, g.session, -3*Epoch))
	add("host-knock-nonce-flipped", "mac", "6.3 a bit of the nonce flipped", flip(hintSize))
	add("host-knock-mac-flipped", "mac", "6.3 last bit of the mac flipped", flip(Size-1))
	add("host-knock-other-host", "mac", "6.3 sealed for another host", seal(g.device, g.session, 0))
	add("host-knock-body-forged", "seal", "6.5 right mac, broken body",
		remac(func(p []byte) { p[60] ^= 1 }))
	body("host-knock-version-2", "5.3 version 2", 0, 2)
	body("host-knock-kind-2", "5.3 kind 2", 1, 2)
	body("host-knock-time-negative", "5.3 a time with the first bit set", 18, 0x80)
	body("host-knock-padding", "5.3 last byte of the padding set", hostPlainSize-1, 1)
	add("host-knock-other-session", "owner", "6.6 the body names another session",
		seal(g.host, g.device, 0))
	add("host-knock-late", "time", "6.7 by a clock 90.001 s ahead",
		seal(g.host, g.session, Tolerance+time.Millisecond))
}

// Offsets into the plaintext of a reply.
const (
	atReplyTime = 2
	atDeadline  = 26
	atSecret    = 34
	atCount     = 114
	atAddress   = 115
	atPort      = 131
	atSecond    = 133
	atFlags     = 151
	atKnockPort = 152
	atCode      = 10
	atTextSize  = 11
	atText      = 12
)

func (g *generator) replies() {
	knock := g.seal(testName, g.request())
	shared := must(g.private.ECDH().ECDH(g.ephemeral.PublicKey()))
	sealed := func(plain []byte) []byte {
		aead := must(chacha20poly1305.New(newPending(shared, knock).replyKey()[:]))
		return aead.Seal(nil, make([]byte, chacha20poly1305.NonceSize), plain, nil)
	}
	add := func(name, expect, about string, packet []byte, headers ...string) {
		rule, about, _ := strings.Cut(about, " ")
		g.add(name, packet, append([]string{
			"about", about, "rule", rule, "type", "reply", "expect", expect,
			"private", hex.EncodeToString(fixed("controller")),
			"ephemeral", hex.EncodeToString(fixed("ephemeral")), "knock", hex.EncodeToString(knock),
		}, headers...)...)
	}
	grant := &Grant{
		Session: g.session, Deadline: testTime.Add(time.Hour), Knock: g.hostKnock,
		Pin: [PinSize]byte(fixed("pin")), Host: g.host,
		Addresses: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.30:4042")},
	}
	at := strconv.FormatInt(testTime.UnixNano(), 10)
	granted := must(appendReply(nil, Reply{Time: testTime, Grant: grant}))
	add("reply-grant", "grant", "4.1 a grant, the answer to knock-access", sealed(granted),
		append(grantHeaders(grant), "time", at)...)
	both := *grant
	both.Addresses = append(both.Addresses[:1:1], netip.MustParseAddrPort("[2001:db8::30]:4042"))
	add("reply-grant-both", "grant", "4.3 a grant with an IPv4 and an IPv6 address",
		sealed(must(appendReply(nil, Reply{Time: testTime, Grant: &both}))),
		append(grantHeaders(&both), "time", at)...)
	flagged := func(name, about string, flags GrantFlags, port uint16) []byte {
		other := *grant
		other.Flags, other.KnockPort = flags, port
		plain := must(appendReply(nil, Reply{Time: testTime, Grant: &other}))
		add(name, "grant", about, sealed(plain), append(grantHeaders(&other), "time", at)...)
		return plain
	}
	direct := flagged("reply-grant-direct", "4.5 a service's own port, for one address",
		FlagDirect|FlagAddress, 4042)
	flagged("reply-grant-direct-udp", "4.5 a UDP service's own port, for one address and port",
		FlagDirect|FlagUDP, 4042)
	flagged("reply-grant-udp", "4.5 UDP through a tunnel", FlagUDP, 0)
	flagged("reply-grant-address", "4.5 a tunnel from any port of one address", FlagAddress, 0)
	denied := must(appendReply(nil, Reply{Time: testTime, Denial: &Denial{
		CodeNotGranted, "no grant for ssh-web1"}}))
	add("reply-denial", "denial", "4.1 a denial, the answer to knock-access", sealed(denied),
		"code", "1", "text", "no grant for ssh-web1")

	good := sealed(granted)
	broken := bytes.Clone(good)
	broken[0] ^= 1
	const not = "not-a-reply"
	add("reply-short", not, "1.1 one byte short", good[:Size-1])
	add("reply-flipped", not, "4.1 a bit flipped", broken)
	add("reply-knock-itself", not, "4.1 the knock sent back", knock)
	add("reply-zero", not, "4.1 all zeros", make([]byte, Size))
	change := func(name, about string, plain []byte, f func(p []byte)) {
		p := bytes.Clone(plain)
		f(p)
		add(name, not, about, sealed(p))
	}
	set := func(at int, v byte) func([]byte) { return func(p []byte) { p[at] = v } }
	change("reply-version-2", "4.3 version 2", granted, set(atVersion, 2))
	change("reply-kind-0", "4.3 kind 0", granted, set(atKind, 0))
	change("reply-kind-3", "4.3 kind 3", granted, set(atKind, 3))
	change("reply-time-negative", "4.3 a time with the first bit set", granted, set(atReplyTime, 0x80))
	change("reply-deadline-negative", "4.3 a deadline with the first bit set", granted,
		set(atDeadline, 0x80))
	change("reply-grant-no-secret", "4.3 a host-knock secret of zeros", granted,
		func(p []byte) { clear(p[atSecret : atSecret+key.Size]) })
	change("reply-grant-no-address", "4.3 a grant without an address", granted, set(atCount, 0))
	change("reply-grant-no-address-zeros", "4.3 a grant without an address, zeros in its place",
		granted, func(p []byte) { clear(p[atCount:]) })
	change("reply-grant-three-addresses", "4.3 three addresses", granted, set(atCount, 3))
	change("reply-grant-second-missing", "4.3 two addresses, the second all zeros", granted,
		set(atCount, 2))
	change("reply-grant-second-uncounted", "4.3 one address, and a second behind it", granted,
		func(p []byte) { copy(p[atSecond:], p[atAddress:atSecond]) })
	change("reply-grant-port-0", "4.3 port 0", granted,
		func(p []byte) { binary.BigEndian.PutUint16(p[atPort:], 0) })
	change("reply-grant-unspecified", "4.3 the address ::ffff:0.0.0.0", granted,
		func(p []byte) { clear(p[atPort-4 : atPort]) })
	change("reply-grant-padding", "4.3 last byte set", granted, set(replyPlainSize-1, 1))
	change("reply-grant-flag-unknown", "4.5 flag 8, which means nothing", granted, set(atFlags, 8))
	change("reply-grant-flag-last", "4.5 flag 128 beside known ones", direct,
		set(atFlags, 0x80|byte(FlagDirect|FlagAddress)))
	change("reply-grant-direct-no-port", "4.5 direct, and nowhere to knock", direct,
		func(p []byte) { clear(p[atKnockPort : atKnockPort+2]) })
	change("reply-grant-port-not-direct", "4.5 a knock port for a tunnel", granted,
		set(atKnockPort+1, 1))
	change("reply-grant-direct-second", "4.4 one address, and the last byte of a second set", direct,
		set(atFlags-1, 1))
	change("reply-grant-direct-tail", "4.3 the byte behind the knock port set", direct,
		set(atKnockPort+2, 1))
	change("reply-denial-code-0", "4.3 code 0", denied, set(atCode, 0))
	change("reply-denial-long-text", "4.3 a text of 121 bytes", denied, set(atTextSize, maxText+1))
	change("reply-denial-not-utf8", "4.3 a text that is not UTF-8", denied, set(atText, 0xff))
	change("reply-denial-text-tail", "4.3 a byte behind the text set", denied,
		set(atText+maxText-1, 1))
	change("reply-denial-padding", "4.3 last byte set", denied, set(replyPlainSize-1, 1))
}

package spa

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/spa/key"
)

// onceGuard is a guard for tests: everything is new the first time.
type onceGuard map[[32]byte]bool

func (g onceGuard) Once(_ int64, mac *[32]byte) bool {
	again := g[*mac]
	g[*mac] = true
	return !again
}

func (g onceGuard) Seen(_ int64, mac *[32]byte) bool { return g[*mac] }

var testTime = time.Unix(1_800_000_000, 123456789)

const testName = "controller.example"

type bench struct {
	device  key.ID
	knock   key.Knock
	private key.ControllerPrivate
	table   *Table[key.Knock]
	guard   onceGuard
	rx      *KnockReceiver
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{
		device: key.NewID(), knock: key.NewKnock(), private: key.NewControllerPrivate(),
		table: NewTable[key.Knock](testTime), guard: onceGuard{},
	}
	b.table.Put(b.device, b.knock)
	var err error
	if b.rx, err = NewKnockReceiver(testName, b.private, b.table, b.guard); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) request() Request {
	return Request{
		Kind: KindAccess, Device: b.device, Service: "ssh-web1", Time: testTime,
		Claimed: netip.MustParseAddr("192.0.2.7"), Session: key.NewID(), Duration: 90 * time.Minute,
	}
}

func (b *bench) seal(t testing.TB, r Request) ([]byte, *Pending) {
	t.Helper()
	packet, pending, err := SealKnock(b.knock, b.private.Public(), testName, r)
	if err != nil {
		t.Fatal(err)
	}
	return packet, pending
}

func TestAValidKnockIsAcceptedAsItWasSealed(t *testing.T) {
	b := newBench(t)
	want := b.request()
	packet, _ := b.seal(t, want)
	if len(packet) != Size {
		t.Fatalf("knock has %d bytes, want %d", len(packet), Size)
	}
	got, reason := b.rx.Receive(packet, testTime)
	if reason != ReasonOK {
		t.Fatalf("reason %s, want ok", reason)
	}
	if !got.Request.Time.Equal(want.Time) {
		t.Errorf("time %s, want %s", got.Request.Time, want.Time)
	}
	got.Request.Time, want.Time = time.Time{}, time.Time{}
	sameAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(got.Request, want, sameAddr); diff != "" {
		t.Errorf("request differs (-got +want):\n%s", diff)
	}
}

func TestAKnockIsAcceptedOnce(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	if _, reason := b.rx.Receive(packet, testTime); reason != ReasonOK {
		t.Fatalf("first: %s", reason)
	}
	for _, later := range []time.Duration{0, time.Second, Epoch} {
		if _, reason := b.rx.Receive(packet, testTime.Add(later)); reason != ReasonReplay {
			t.Errorf("%s later: %s, want replay", later, reason)
		}
	}
}

// What is rejected yields nothing to answer with. PROTOCOL 1.2
func TestEveryPrefixAndEveryFlippedBitIsRejected(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	for n := range packet {
		if got, reason := b.rx.Receive(packet[:n], testTime); reason != ReasonSize || got != nil {
			t.Fatalf("first %d bytes: %v %s", n, got, reason)
		}
	}
	if _, reason := b.rx.Receive(append(bytes.Clone(packet), 0), testTime); reason != ReasonSize {
		t.Errorf("one byte more: %s", reason)
	}
	for i := range packet {
		for bit := range 8 {
			bad := bytes.Clone(packet)
			bad[i] ^= 1 << bit
			if got, reason := b.rx.Receive(bad, testTime); reason == ReasonOK || got != nil {
				t.Fatalf("byte %d bit %d flipped: %s", i, bit, reason)
			}
		}
	}
	if _, reason := b.rx.Receive(packet, testTime); reason != ReasonOK {
		t.Errorf("the packet itself after all that: %s, want ok", reason)
	}
}

func TestAKnockIsForOneControllerOnly(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	other, err := NewKnockReceiver("other.example", b.private, b.table, onceGuard{})
	if err != nil {
		t.Fatal(err)
	}
	if _, reason := other.Receive(packet, testTime); reason != ReasonMAC {
		t.Errorf("another name: %s, want mac", reason)
	}
	otherKey, err := NewKnockReceiver(testName, key.NewControllerPrivate(), b.table, onceGuard{})
	if err != nil {
		t.Fatal(err)
	}
	if _, reason := otherKey.Receive(packet, testTime); reason != ReasonSeal {
		t.Errorf("another key: %s, want seal", reason)
	}
}

func TestAKnockOfAnotherTimeIsRejected(t *testing.T) {
	for _, c := range []struct {
		off  time.Duration
		want Reason
	}{
		{0, ReasonOK}, {-Epoch, ReasonOK}, {Epoch, ReasonOK},
		{3 * Epoch, ReasonHint}, {-3 * Epoch, ReasonHint},
	} {
		b := newBench(t)
		r := b.request()
		r.Time = testTime.Add(c.off)
		packet, _ := b.seal(t, r)
		if _, reason := b.rx.Receive(packet, testTime); reason != c.want {
			t.Errorf("knock off by %s: %s, want %s", c.off, reason, c.want)
		}
	}
}

// The hint's epoch alone would let a knock in for up to two minutes.
func TestTheBodysTimeIsCheckedWithinTheEpoch(t *testing.T) {
	b := newBench(t)
	start := time.Unix(EpochOf(testTime)*60, 0) // the first instant of an epoch
	r := b.request()
	r.Time = start
	packet, _ := b.seal(t, r)
	if _, reason := b.rx.Receive(packet, start.Add(Tolerance+time.Millisecond)); reason != ReasonTime {
		t.Errorf("%s, want time", reason)
	}
}

func TestAnotherDevicesBodyIsRejected(t *testing.T) {
	b := newBench(t)
	r := b.request()
	r.Device = key.NewID()
	packet, _ := b.seal(t, r)
	if _, reason := b.rx.Receive(packet, testTime); reason != ReasonOwner {
		t.Errorf("%s, want owner", reason)
	}
}

func TestARemovedDeviceIsUnknown(t *testing.T) {
	b := newBench(t)
	packet, _ := b.seal(t, b.request())
	b.table.Remove(b.device)
	if _, reason := b.rx.Receive(packet, testTime); reason != ReasonHint {
		t.Errorf("%s, want hint", reason)
	}
}

func TestOnlyTheSenderOpensTheReplyAndOnlyItsOwn(t *testing.T) {
	b := newBench(t)
	first, firstPending := b.seal(t, b.request())
	second, secondPending := b.seal(t, b.request())
	accepted, reason := b.rx.Receive(first, testTime)
	if reason != ReasonOK {
		t.Fatal(reason)
	}
	if _, reason := b.rx.Receive(second, testTime); reason != ReasonOK {
		t.Fatal(reason)
	}
	grant := &Grant{
		Session: key.NewID(), Deadline: testTime.Add(time.Hour), Knock: key.NewHostKnock(),
		Pin: [32]byte{1, 2, 3}, Host: key.NewID(),
		Addresses: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4042"),
			netip.MustParseAddrPort("[2001:db8::1]:4042")},
	}
	sealed, err := accepted.SealReply(Reply{Time: testTime, Grant: grant})
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) != Size {
		t.Errorf("reply has %d bytes, want %d", len(sealed), Size)
	}
	got, err := firstPending.OpenReply(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if g := got.Grant; !g.Knock.Equal(grant.Knock) || g.Session != grant.Session ||
		g.Pin != grant.Pin || g.Host != grant.Host || !g.Deadline.Equal(grant.Deadline) ||
		!got.Time.Equal(testTime) {
		t.Errorf("grant differs: %+v", g)
	}
	if diff := cmp.Diff(got.Grant.Addresses, grant.Addresses,
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if _, err := secondPending.OpenReply(sealed); !errors.Is(err, ErrReply) {
		t.Errorf("another knock of the same device opened it: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x10
		for _, b := range [][]byte{bad, sealed[:i]} {
			if r, err := firstPending.OpenReply(b); !errors.Is(err, ErrReply) || r != (Reply{}) {
				t.Fatalf("byte %d flipped, or cut there: %+v, %v", i, r, err)
			}
		}
	}
}

func TestADenialCarriesItsReason(t *testing.T) {
	b := newBench(t)
	packet, pending := b.seal(t, b.request())
	accepted, _ := b.rx.Receive(packet, testTime)
	want := Denial{CodeNotGranted, "no grant for ssh-web1"}
	sealed, err := accepted.SealReply(Reply{Time: testTime, Denial: &want})
	if err != nil {
		t.Fatal(err)
	}
	got, err := pending.OpenReply(sealed)
	if err != nil || got.Denial == nil || *got.Denial != want {
		t.Errorf("got %+v, %v", got.Denial, err)
	}
}

func TestAKnockLooksRandom(t *testing.T) {
	b := newBench(t)
	const n = 400
	var ones [Size * 8]int
	for range n {
		packet, _ := b.seal(t, b.request())
		for i, v := range packet[hintSize:] { // within an epoch the hint stands still
			for bit := range 8 {
				ones[(i+hintSize)*8+bit] += int(v >> bit & 1)
			}
		}
	}
	for i := hintSize * 8; i < len(ones); i++ {
		if ones[i] < n/4 || ones[i] > 3*n/4 { // beyond ten standard deviations
			t.Errorf("byte %d bit %d is set in %d of %d knocks", i/8, i%8, ones[i], n)
		}
	}
}

func TestHostKnockOpensItsOwnSessionAtItsOwnHostOnce(t *testing.T) {
	host, session, k := key.NewID(), key.NewID(), key.NewHostKnock()
	table := NewTable[key.HostKnock](testTime)
	table.Put(session, k)
	rx := NewHostKnockReceiver(host, table, onceGuard{})
	packet := SealHostKnock(k, host, session, testTime)
	if !rx.MayBeKnock(packet, testTime) {
		t.Error("not seen as a knock")
	}
	for i := range packet {
		bad := bytes.Clone(packet)
		bad[i] ^= 1
		for _, b := range [][]byte{bad, packet[:i]} {
			if id, reason := rx.Receive(b, testTime); reason == ReasonOK || !id.IsZero() {
				t.Fatalf("byte %d flipped, or cut there: %s", i, reason)
			}
		}
	}
	elsewhere := NewHostKnockReceiver(key.NewID(), table, onceGuard{})
	if _, reason := elsewhere.Receive(packet, testTime); reason != ReasonMAC {
		t.Errorf("at another host: %s, want mac", reason)
	}
	if got, reason := rx.Receive(packet, testTime); reason != ReasonOK || got != session {
		t.Errorf("got %s %s", got, reason)
	}
	if _, reason := rx.Receive(packet, testTime); reason != ReasonReplay {
		t.Errorf("again: %s, want replay", reason)
	}
	wrong := SealHostKnock(k, host, key.NewID(), testTime)
	if _, reason := rx.Receive(wrong, testTime); reason != ReasonOwner {
		t.Errorf("another session inside: %s, want owner", reason)
	}
	table.Remove(session)
	late := SealHostKnock(k, host, session, testTime)
	if _, reason := rx.Receive(late, testTime); reason != ReasonHint {
		t.Errorf("ended session: %s, want hint", reason)
	}
}

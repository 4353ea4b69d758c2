package spa

import (
	"crypto/ecdh"
	"crypto/hmac"
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// Guard lets each accepted datagram in once. It is safe for concurrent use, and fails
// closed.
type Guard interface {
	// Seen reports whether Once would refuse mac, and remembers nothing. With others at
	// work meanwhile, Once may still refuse what was not seen.
	Seen(epoch int64, mac *[32]byte) bool
	// Once reports whether mac, that of a datagram of the given epoch, is new and the
	// epoch is open, and remembers it.
	Once(epoch int64, mac *[32]byte) bool
}

// KnockReceiver is the controller's end of the knock. It is safe for concurrent use.
type KnockReceiver struct {
	audience string
	private  key.ControllerPrivate
	table    *Table[key.Knock]
	guard    Guard
}

// NewKnockReceiver returns a receiver of knocks for the controller named audience.
func NewKnockReceiver(audience string, private key.ControllerPrivate, table *Table[key.Knock],
	guard Guard) (*KnockReceiver, error) {
	if len(audience) == 0 || len(audience) > maxAudience {
		return nil, ErrAudience
	}
	return &KnockReceiver{audience, private, table, guard}, nil
}

// Accepted is a knock that passed every check.
type Accepted struct {
	Request  Request
	Identity key.ID // whose knock secret it was: Request.Device
	reply    *Pending
	answered atomic.Bool
}

// Receive checks a datagram at the receiver's time now. The checks run cheapest
// first (PROTOCOL 1.2: of anything else the caller learns a reason, and no way to
// answer); until the hint is found none allocates, and none before the HMAC does
// public-key work. On any reason but [ReasonOK] the knock is nil.
func (v *KnockReceiver) Receive(datagram []byte, now time.Time) (*Accepted, Reason) {
	if len(datagram) != Size { // PROTOCOL 6.1
		return nil, ReasonSize
	}
	found, ok := v.table.lookup(binary.BigEndian.Uint64(datagram), now) // PROTOCOL 6.2
	if !ok {
		return nil, ReasonHint
	}
	mac := [macSize]byte(datagram[authenticated:])
	if !macOK(found.key.MACKey(), datagram, v.audience) { // PROTOCOL 6.3
		return nil, ReasonMAC
	}
	if reason := admit(v.guard, found.epoch, &mac, found.pace, now); reason != ReasonOK {
		return nil, reason
	}
	plain, reply := v.open(found.key, datagram)
	if plain == nil { // PROTOCOL 6.5
		return nil, ReasonSeal
	}
	request, ok := parseRequest(plain)
	switch {
	case !ok:
		return nil, ReasonBody
	case request.Device != found.id: // PROTOCOL 6.6
		return nil, ReasonOwner
	case !fresh(request.Time, now): // PROTOCOL 6.7
		return nil, ReasonTime
	}
	return &Accepted{Request: request, Identity: found.id, reply: reply}, ReasonOK
}

func (v *KnockReceiver) open(k key.Knock, datagram []byte) ([]byte, *Pending) {
	var packet [authenticated]byte
	copy(packet[:], datagram)
	mask(k.MaskKey(), packet[:])
	ephemeral := [ephemeralSize]byte(packet[hintSize : hintSize+ephemeralSize])
	public, err := ecdh.X25519().NewPublicKey(ephemeral[:])
	if err != nil {
		return nil, nil
	}
	shared, err := v.private.ECDH().ECDH(public) // refuses low-order points: PROTOCOL 3.4
	if err != nil {
		return nil, nil
	}
	bk := bodyKey(shared, ephemeral, v.private.Public())
	aead, err := chacha20poly1305.New(bk[:])
	if err != nil {
		return nil, nil
	}
	var zero [chacha20poly1305.NonceSize]byte
	plain, err := aead.Open(nil, zero[:], packet[hintSize+ephemeralSize:],
		bodyData(packet[:hintSize], v.audience))
	if err != nil {
		return nil, nil
	}
	return plain, newPending(shared, datagram)
}

func macOK(k key.Subkey, datagram []byte, audience string) bool {
	var want [macSize]byte
	k.MAC(want[:0], datagram[:authenticated], []byte(audience))
	return hmac.Equal(want[:], datagram[authenticated:])
}

// admit lets a datagram with a right HMAC in once, and no more of them than the pace
// allows. A replay takes nothing of it: whoever records knocks could lock their
// sender out.
func admit(guard Guard, epoch int64, mac *[macSize]byte, p *pace, now time.Time) Reason {
	switch {
	case guard.Seen(epoch, mac): // PROTOCOL 6.4
		return ReasonReplay
	case !p.take(now): // PROTOCOL 6.8
		return ReasonPace
	case !guard.Once(epoch, mac):
		return ReasonReplay
	}
	return ReasonOK
}

func fresh(t, now time.Time) bool {
	d := now.Sub(t)
	return d <= Tolerance && d >= -Tolerance
}

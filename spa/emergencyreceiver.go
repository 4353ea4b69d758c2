package spa

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// EmergencyKey is an emergency key as its host knows it.
type EmergencyKey struct {
	ID       key.ID
	Verifier key.EmergencyVerifier
	Service  string
	Used     uint64 // highest counter that was taken
	Uses     uint64 // highest counter there is, at most MaxEmergencyCounter
}

// EmergencyReceiver is the host's end of emergency knocks. It holds one hint for
// each counter that is not used yet. It does not burn counters: its caller makes
// sure on the disk that a counter serves once, and tells the receiver by Set.
// It is safe for concurrent use.
type EmergencyReceiver struct {
	host    key.ID
	waiting atomic.Pointer[map[uint64]emergencyUse]
}

// emergencyUse is one use of a key.
type emergencyUse struct {
	key     *EmergencyKey
	counter uint64
}

// NewEmergencyReceiver returns a receiver for the host of that id, which knows no
// key yet.
func NewEmergencyReceiver(host key.ID) *EmergencyReceiver {
	v := &EmergencyReceiver{host: host}
	v.Set(nil)
	return v
}

// Set makes keys the only ones. It costs one HMAC for each unused counter.
func (v *EmergencyReceiver) Set(keys []EmergencyKey) {
	waiting := make(map[uint64]emergencyUse)
	for _, k := range keys {
		hints := k.Verifier.HintKey()
		for n := k.Used + 1; n <= min(k.Uses, MaxEmergencyCounter); n++ { // PROTOCOL 9.4
			waiting[hints.Hint(int64(n))] = emergencyUse{&k, n}
		}
	}
	v.waiting.Store(&waiting)
}

// MayBeEmergency reports whether the datagram has an emergency knock's length and
// the hint of an unused counter. It costs a look-up.
func (v *EmergencyReceiver) MayBeEmergency(datagram []byte) bool {
	if len(datagram) != Size {
		return false
	}
	_, ok := (*v.waiting.Load())[binary.BigEndian.Uint64(datagram)]
	return ok
}

// Receive checks a datagram and returns what it asks for. On any reason but
// [ReasonOK] the knock is zero.
func (v *EmergencyReceiver) Receive(datagram []byte) (EmergencyKnock, Reason) {
	if len(datagram) != Size {
		return EmergencyKnock{}, ReasonSize
	}
	use, ok := (*v.waiting.Load())[binary.BigEndian.Uint64(datagram)]
	if !ok {
		return EmergencyKnock{}, ReasonHint
	}
	if !macOK(use.key.Verifier.MACKey(), datagram, v.host.String()) { // PROTOCOL 9.1
		return EmergencyKnock{}, ReasonMAC
	}
	plain := v.open(use, datagram)
	if plain == nil {
		return EmergencyKnock{}, ReasonSeal
	}
	e, signature, ok := parseEmergencyBody(plain)
	if !ok {
		return EmergencyKnock{}, ReasonBody
	}
	if e.Key != use.key.ID || e.Counter != use.counter || e.Service != use.key.Service { // PROTOCOL 9.5
		return EmergencyKnock{}, ReasonOwner
	}
	signed := emergencySignedParts(datagram[:hintSize], v.host, plain)
	if !use.key.Verifier.Verify(signature, signed...) {
		return EmergencyKnock{}, ReasonSignature
	}
	return e, ReasonOK
}

func (v *EmergencyReceiver) open(use emergencyUse, datagram []byte) []byte {
	aead, err := chacha20poly1305.NewX(use.key.Verifier.SealKey(use.counter).AEADKey()[:])
	if err != nil {
		return nil
	}
	rest := datagram[hintSize:authenticated]
	plain, err := aead.Open(nil, rest[:nonceSize], rest[nonceSize:],
		bodyData(datagram[:hintSize], v.host.String()))
	if err != nil {
		return nil
	}
	return plain
}

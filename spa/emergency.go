package spa

import (
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

const (
	kindEmergency byte = 1

	// MaxEmergencyCounter is the highest counter of an emergency key: a receiver
	// holds a hint for each that is not used yet.
	MaxEmergencyCounter = 100

	emergencySigned  = 1 + 1 + key.IDSize + 8 + 1 + maxService // of the body, 90
	emergencyContext = "postern/v1 emergency knock"
)

// The signature fits behind what it signs, or this does not compile.
const _ = uint(hostPlainSize - emergencySigned - key.SignatureSize)

// EmergencyKnock is what an emergency knock says: the key's owner asks for the
// key's service, for the counter-th time.
type EmergencyKnock struct {
	Key     key.ID
	Counter uint64 // 1 to MaxEmergencyCounter; each serves once
	Service string // 1 to 63 bytes
}

func (e EmergencyKnock) validate() error {
	if e.Counter < 1 || e.Counter > MaxEmergencyCounter {
		return ErrCounter
	}
	if e.Key.IsZero() || e.Service == "" || len(e.Service) > maxService {
		return ErrEmergency
	}
	return nil
}

// SealEmergency makes the datagram that asks the host, with no controller about, to
// open the service to the datagram's source. It depends on no clock. The same
// datagram may be sent several times: it is taken once. It returns [ErrCounter] for
// a counter out of range and [ErrEmergency] for a knock without a key or service.
func SealEmergency(k key.Emergency, host key.ID, e EmergencyKnock) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	var nonce [nonceSize]byte
	rand.Read(nonce[:]) // never fails, see crypto/rand.Read
	return sealEmergency(k, host, e, nonce), nil
}

func sealEmergency(k key.Emergency, host key.ID, e EmergencyKnock, nonce [nonceSize]byte) []byte {
	verifier := k.Verifier()
	hint := binary.BigEndian.AppendUint64(nil, verifier.HintKey().Hint(int64(e.Counter)))
	plain := appendEmergencyBody(nil, e)
	signature := k.Sign(emergencySignedParts(hint, host, plain)...)
	copy(plain[emergencySigned:], signature)
	return sealEmergencyBody(verifier, host, e.Counter, hint, plain, nonce)
}

// sealEmergencyBody makes the datagram of a body that is signed.
func sealEmergencyBody(v key.EmergencyVerifier, host key.ID, counter uint64, hint, plain []byte,
	nonce [nonceSize]byte) []byte {
	packet := make([]byte, 0, Size)
	packet = append(packet, hint...)
	packet = append(packet, nonce[:]...)
	aead, err := chacha20poly1305.NewX(v.SealKey(counter).AEADKey()[:])
	if err != nil {
		panic("spa: XChaCha20-Poly1305 refused a 32-byte key: " + err.Error())
	}
	packet = aead.Seal(packet, nonce[:], plain, bodyData(hint, host.String()))
	return v.MACKey().MAC(packet, packet, []byte(host.String()))
}

// emergencySignedParts is what the signature covers. PROTOCOL 9.2
func emergencySignedParts(hint []byte, host key.ID, plain []byte) [][]byte {
	return [][]byte{[]byte(emergencyContext), hint, []byte(host.String()), plain[:emergencySigned]}
}

// appendEmergencyBody appends the 176 bytes of the plaintext, its signature still
// missing.
//
//	version 1 | kind 1 | key 16 | counter 8 | length 1 | service 63 | signature 64 | zero 22
func appendEmergencyBody(dst []byte, e EmergencyKnock) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, hostPlainSize)...)
	w := writer{dst[n:]}
	w.byte(versionOne)
	w.byte(kindEmergency)
	w.bytes(e.Key[:], key.IDSize)
	binary.BigEndian.PutUint64(w.rest, e.Counter)
	w.rest = w.rest[8:]
	w.byte(byte(len(e.Service)))
	w.bytes([]byte(e.Service), maxService)
	return dst
}

func parseEmergencyBody(b []byte) (e EmergencyKnock, signature []byte, ok bool) {
	if len(b) != hostPlainSize {
		return EmergencyKnock{}, nil, false
	}
	r := reader{b}
	if r.byte() != versionOne || r.byte() != kindEmergency { // PROTOCOL 9.3
		return EmergencyKnock{}, nil, false
	}
	e.Key = r.id()
	e.Counter = binary.BigEndian.Uint64(r.take(8))
	e.Service, ok = r.text(maxService)
	signature = r.take(key.SignatureSize)
	if !ok || !r.end() || e.validate() != nil {
		return EmergencyKnock{}, nil, false
	}
	return e, signature, true
}

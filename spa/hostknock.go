package spa

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

const kindHostKnock byte = 1

// SealHostKnock makes one datagram for the host, by which it learns the exact
// address and port that the session's tunnel comes from. now is on the
// controller's clock.
func SealHostKnock(k key.HostKnock, host, session key.ID, now time.Time) []byte {
	var nonce [nonceSize]byte
	rand.Read(nonce[:]) // never fails, see crypto/rand.Read
	return sealHostKnock(k, host, session, now, nonce)
}

func sealHostKnock(k key.HostKnock, host, session key.ID, now time.Time,
	nonce [nonceSize]byte) []byte {
	audience := host.String()
	packet := make([]byte, hintSize, Size)
	binary.BigEndian.PutUint64(packet, k.HintKey().Hint(EpochOf(now)))
	packet = append(packet, nonce[:]...)
	aead, err := chacha20poly1305.NewX(k.SealKey().AEADKey()[:])
	if err != nil {
		panic("spa: XChaCha20-Poly1305 refused a 32-byte key: " + err.Error())
	}
	plain := appendHostBody(nil, session, now)
	packet = aead.Seal(packet, nonce[:], plain, bodyData(packet[:hintSize], audience))
	return k.MACKey().MAC(packet, packet, []byte(audience))
}

// appendHostBody appends the 176 bytes of the plaintext.
//
//	version 1 | kind 1 | session 16 | time 8 | zero 150
func appendHostBody(dst []byte, session key.ID, now time.Time) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, hostPlainSize)...)
	w := writer{dst[n:]}
	w.byte(versionOne)
	w.byte(kindHostKnock)
	w.bytes(session[:], key.IDSize)
	w.time(now)
	return dst
}

func parseHostBody(b []byte) (session key.ID, t time.Time, ok bool) {
	if len(b) != hostPlainSize {
		return key.ID{}, time.Time{}, false
	}
	r := reader{b}
	if r.byte() != versionOne || r.byte() != kindHostKnock { // PROTOCOL 5.3
		return key.ID{}, time.Time{}, false
	}
	session = r.id()
	if t, ok = r.time(); !ok || !r.end() {
		return key.ID{}, time.Time{}, false
	}
	return session, t, true
}

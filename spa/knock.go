package spa

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/postern-sdp/postern/spa/key"
)

// Pending is a knock that was sent and can open its answer. It holds secrets;
// drop it after use.
type Pending struct {
	replyKey func() *[key.Size]byte
}

// SealKnock makes one datagram for the controller whose static key is to and
// whose name is audience. Each call makes another datagram; a knock is sent once,
// and a retry is a new knock. PROTOCOL 3.1
func SealKnock(k key.Knock, to key.ControllerPublic, audience string,
	r Request) ([]byte, *Pending, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make ephemeral key: %w", err)
	}
	return sealKnock(k, to, audience, r, ephemeral)
}

func sealKnock(k key.Knock, to key.ControllerPublic, audience string, r Request,
	ephemeral *ecdh.PrivateKey) ([]byte, *Pending, error) {
	if len(audience) == 0 || len(audience) > maxAudience {
		return nil, nil, fmt.Errorf("seal knock: %w", ErrAudience)
	}
	plain, err := appendRequest(nil, r)
	if err != nil {
		return nil, nil, err
	}
	public, err := ecdh.X25519().NewPublicKey(to[:])
	if err != nil {
		return nil, nil, fmt.Errorf("seal knock: controller's key: %w", err)
	}
	shared, err := ephemeral.ECDH(public) // refuses an all-zero result
	if err != nil {
		return nil, nil, fmt.Errorf("seal knock: controller's key: %w", err)
	}
	packet := make([]byte, hintSize, Size)
	binary.BigEndian.PutUint64(packet, k.HintKey().Hint(EpochOf(r.Time)))
	packet = append(packet, ephemeral.PublicKey().Bytes()...)
	clear := [ephemeralSize]byte(ephemeral.PublicKey().Bytes())
	packet, err = sealBody(packet, plain, shared, clear, to, audience)
	if err != nil {
		return nil, nil, err
	}
	mask(k.MaskKey(), packet)
	packet = k.MACKey().MAC(packet, packet, []byte(audience)) // PROTOCOL 3.2
	return packet, newPending(shared, packet), nil
}

// sealBody appends the sealed body. The key is used once, so the nonce is zero.
func sealBody(packet, plain, shared []byte, ephemeral [ephemeralSize]byte,
	to key.ControllerPublic, audience string) ([]byte, error) {
	k := bodyKey(shared, ephemeral, to)
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		return nil, fmt.Errorf("seal knock: %w", err)
	}
	var zero [chacha20poly1305.NonceSize]byte
	return aead.Seal(packet, zero[:], plain, bodyData(packet[:hintSize], audience)), nil
}

// bodyKey binds the exchange's both public keys, as RFC 7748, 6.1 advises.
func bodyKey(shared []byte, ephemeral [ephemeralSize]byte, to key.ControllerPublic) [key.Size]byte {
	salt := append(ephemeral[:], to[:]...)
	return key.Expand(shared, salt, key.LabelKnockBody)
}

// bodyData is what the sealed body authenticates besides itself.
func bodyData(hint []byte, audience string) []byte {
	return append(append(make([]byte, 0, hintSize+maxAudience), hint...), audience...)
}

// mask hides, or shows again, the ephemeral key of a packet. The mask comes from
// the hint and the sealed body, so that it differs for each packet and the zero
// top bit of an X25519 coordinate does not show through. PROTOCOL 3.3
func mask(k key.Subkey, packet []byte) {
	var stream [macSize]byte
	k.MAC(stream[:0], packet[:hintSize], packet[hintSize+ephemeralSize:authenticated])
	for i := range ephemeralSize {
		packet[hintSize+i] ^= stream[i]
	}
}

func newPending(shared, packet []byte) *Pending {
	k := key.Expand(shared, packet[authenticated:], key.LabelReply)
	return &Pending{replyKey: func() *[key.Size]byte { return &k }}
}

package key

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// Labels of everything that is derived, each with the protocol's version.
const (
	labelKnockHint     = "postern/v1 knock hint"
	labelKnockMask     = "postern/v1 knock mask"
	labelKnockMAC      = "postern/v1 knock mac"
	labelHostKnockHint = "postern/v1 host knock hint"
	labelHostKnockMAC  = "postern/v1 host knock mac"
	labelHostKnockSeal = "postern/v1 host knock seal"
	labelReset         = "postern/v1 stateless reset"
	// LabelKnockBody and LabelReply name the two keys that an X25519 exchange
	// with the controller's static key yields.
	LabelKnockBody = "postern/v1 knock body"
	LabelReply     = "postern/v1 reply"
)

// HintSize is the length of a hint in bytes.
const HintSize = 8

// Subkey is one key derived from a knock secret, for one purpose. The zero
// Subkey panics when used.
type Subkey struct{ s secret }

// derive is HKDF-SHA-256 (RFC 5869) without salt.
func (s secret) derive(label string) Subkey {
	return Subkey{newSecret(expand(s.mustBytes()[:], nil, label))}
}

// expand is HKDF-SHA-256 (RFC 5869) to one key's length.
func expand(input, salt []byte, label string) [Size]byte {
	b, err := hkdf.Key(sha256.New, input, salt, label, Size)
	if err != nil {
		panic("key: HKDF refused 32 bytes: " + err.Error()) // only beyond 255 hashes, or in FIPS mode
	}
	return [Size]byte(b)
}

// Expand derives a key from an X25519 shared secret with one of the labels.
func Expand(shared, salt []byte, label string) [Size]byte { return expand(shared, salt, label) }

// HintKey yields the epoch hints of a device.
func (k Knock) HintKey() Subkey { return k.s.derive(labelKnockHint) }

// MaskKey hides the ephemeral public key.
func (k Knock) MaskKey() Subkey { return k.s.derive(labelKnockMask) }

// MACKey authenticates the whole knock.
func (k Knock) MACKey() Subkey { return k.s.derive(labelKnockMAC) }

// ResetKey marks the stateless resets (RFC 9000, section 10.3) of a host, so that
// they outlive its agent.
func (k Knock) ResetKey() Subkey { return k.s.derive(labelReset) }

// HintKey yields the epoch hints of a session.
func (k HostKnock) HintKey() Subkey { return k.s.derive(labelHostKnockHint) }

// MACKey authenticates the whole host knock.
func (k HostKnock) MACKey() Subkey { return k.s.derive(labelHostKnockMAC) }

// SealKey seals the host knock's body.
func (k HostKnock) SealKey() Subkey { return k.s.derive(labelHostKnockSeal) }

// IsZero reports whether k holds no key.
func (k Subkey) IsZero() bool { return k.s.isZero() }

// MAC appends HMAC-SHA-256 (RFC 2104) over the parts to dst.
func (k Subkey) MAC(dst []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, k.s.mustBytes()[:])
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(dst)
}

// Hint names the key's owner during one epoch. It is never 0.
func (k Subkey) Hint(epoch int64) uint64 {
	var e [8]byte
	binary.BigEndian.PutUint64(e[:], uint64(epoch))
	var sum [sha256.Size]byte
	k.MAC(sum[:0], e[:])
	return max(1, binary.BigEndian.Uint64(sum[:HintSize]))
}

// AEADKey hands out the bytes for a cipher's constructor.
func (k Subkey) AEADKey() *[Size]byte { return k.s.mustBytes() }

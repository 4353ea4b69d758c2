package key

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
)

const (
	prefixEmergency         = "postern-emergency-secret:"
	prefixEmergencyVerifier = "postern-emergency-verifier:"

	labelEmergencyVerifier = "postern/v1 emergency verifier"
	labelEmergencySign     = "postern/v1 emergency sign"
	labelEmergencyHint     = "postern/v1 emergency hint"
	labelEmergencyMAC      = "postern/v1 emergency mac"
	labelEmergencySeal     = "postern/v1 emergency seal"
)

// SignatureSize is the length of what [Emergency.Sign] returns, in bytes.
const SignatureSize = ed25519.SignatureSize

// Emergency is the secret of an emergency key, which its owner keeps offline: it
// makes emergency knocks. The host has the [EmergencyVerifier] only. The zero
// Emergency panics when used.
type Emergency struct{ s secret }

// NewEmergency returns a random emergency secret.
func NewEmergency() Emergency { return Emergency{randomSecret()} }

// EmergencyFromBytes copies 32 bytes, not all zero, into an Emergency.
func EmergencyFromBytes(b []byte) (Emergency, error) {
	s, err := secretFromBytes(b)
	return Emergency{s}, err
}

// ParseEmergency reads the form that Reveal writes. Its errors never quote the text.
func ParseEmergency(text string) (Emergency, error) {
	b, err := parseBytes(prefixEmergency, text)
	if err != nil {
		return Emergency{}, err
	}
	return EmergencyFromBytes(b)
}

// Reveal returns the secret as text, for its owner's private file and nothing else.
func (k Emergency) Reveal() string { return prefixEmergency + hex.EncodeToString(k.s.mustBytes()[:]) }

// RevealBytes returns a copy of the secret's bytes, under the same rule as Reveal.
func (k Emergency) RevealBytes() []byte { return append([]byte(nil), k.s.mustBytes()[:]...) }

// IsZero reports whether k holds no secret.
func (k Emergency) IsZero() bool { return k.s.isZero() }

// Equal compares in constant time.
func (k Emergency) Equal(o Emergency) bool { return k.s.equal(o.s) }

// Sign returns the Ed25519 signature (RFC 8032) over the parts, joined.
func (k Emergency) Sign(parts ...[]byte) []byte {
	return ed25519.Sign(k.private(), joined(parts))
}

func (k Emergency) private() ed25519.PrivateKey {
	seed := k.s.derive(labelEmergencySign)
	return ed25519.NewKeyFromSeed(seed.AEADKey()[:])
}

// Verifier returns what the host needs to recognise this key's knocks. Nobody can
// make one with it.
func (k Emergency) Verifier() EmergencyVerifier {
	public := k.private().Public().(ed25519.PublicKey)
	return EmergencyVerifier{k.s.derive(labelEmergencyVerifier).s, [Size]byte(public)}
}

// EmergencyVerifier is the host's half of an emergency key: a secret that finds,
// authenticates and opens its knocks, and the public key of their signatures. The
// zero EmergencyVerifier panics when used.
type EmergencyVerifier struct {
	s      secret
	public [Size]byte
}

// ParseEmergencyVerifier reads the form that Reveal writes. Its errors never quote
// the text.
func ParseEmergencyVerifier(text string) (EmergencyVerifier, error) {
	if len(text) < 2*Size {
		return EmergencyVerifier{}, ErrSize
	}
	at := len(text) - 2*Size
	public, err := parseBytes("", text[at:])
	if err != nil {
		return EmergencyVerifier{}, err
	}
	b, err := parseBytes(prefixEmergencyVerifier, text[:at])
	if err != nil {
		return EmergencyVerifier{}, err
	}
	s, err := secretFromBytes(b)
	if err != nil {
		return EmergencyVerifier{}, err
	}
	return EmergencyVerifier{s, [Size]byte(public)}, nil
}

// Reveal returns the verifier as text, for the host's private file and nothing else.
func (k EmergencyVerifier) Reveal() string {
	return prefixEmergencyVerifier + hex.EncodeToString(k.s.mustBytes()[:]) +
		hex.EncodeToString(k.public[:])
}

// IsZero reports whether k holds nothing.
func (k EmergencyVerifier) IsZero() bool { return k.s.isZero() }

// HintKey yields the hints of the key's counters.
func (k EmergencyVerifier) HintKey() Subkey { return k.s.derive(labelEmergencyHint) }

// MACKey authenticates the whole emergency knock.
func (k EmergencyVerifier) MACKey() Subkey { return k.s.derive(labelEmergencyMAC) }

// SealKey seals the body of the emergency knock of one counter.
func (k EmergencyVerifier) SealKey(counter uint64) Subkey {
	salt := binary.BigEndian.AppendUint64(nil, counter)
	return Subkey{newSecret(expand(k.s.mustBytes()[:], salt, labelEmergencySeal))}
}

// Verify reports whether the signature is [Emergency.Sign]'s over the parts.
func (k EmergencyVerifier) Verify(signature []byte, parts ...[]byte) bool {
	k.s.mustBytes()
	return ed25519.Verify(k.public[:], joined(parts), signature)
}

func joined(parts [][]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

package key

import (
	"crypto/ecdh"
	"encoding/hex"
	"fmt"
)

// ControllerPrivate is a controller's static X25519 key (RFC 7748): the bodies of
// knocks are sealed to it. The zero ControllerPrivate panics when used.
type ControllerPrivate struct {
	s    secret
	ecdh func() *ecdh.PrivateKey
}

// NewControllerPrivate returns a random key.
func NewControllerPrivate() ControllerPrivate {
	k, err := controllerPrivate(randomSecret())
	if err != nil {
		panic("key: X25519 refused 32 random bytes: " + err.Error())
	}
	return k
}

// ControllerPrivateFromBytes copies 32 bytes, not all zero, into a ControllerPrivate.
func ControllerPrivateFromBytes(b []byte) (ControllerPrivate, error) {
	s, err := secretFromBytes(b)
	if err != nil {
		return ControllerPrivate{}, err
	}
	return controllerPrivate(s)
}

// ParseControllerPrivate reads the form that Reveal writes. Its errors never quote the text.
func ParseControllerPrivate(text string) (ControllerPrivate, error) {
	b, err := parseBytes(prefixControllerPrivate, text)
	if err != nil {
		return ControllerPrivate{}, err
	}
	return ControllerPrivateFromBytes(b)
}

func controllerPrivate(s secret) (ControllerPrivate, error) {
	k, err := ecdh.X25519().NewPrivateKey(s.bytes()[:])
	if err != nil {
		return ControllerPrivate{}, fmt.Errorf("make X25519 key: %w", err)
	}
	return ControllerPrivate{s: s, ecdh: func() *ecdh.PrivateKey { return k }}, nil
}

// Reveal returns the key as text, for the controller's private file and nothing else.
func (k ControllerPrivate) Reveal() string {
	return prefixControllerPrivate + hex.EncodeToString(k.s.mustBytes()[:])
}

// IsZero reports whether k holds no key.
func (k ControllerPrivate) IsZero() bool { return k.s.isZero() }

// Equal compares in constant time.
func (k ControllerPrivate) Equal(o ControllerPrivate) bool { return k.s.equal(o.s) }

// ECDH returns the key for an X25519 exchange.
func (k ControllerPrivate) ECDH() *ecdh.PrivateKey {
	k.s.mustBytes()
	return k.ecdh()
}

// Public returns the public half.
func (k ControllerPrivate) Public() ControllerPublic {
	return ControllerPublic([Size]byte(k.ECDH().PublicKey().Bytes()))
}

// ControllerPublic is the public half of a [ControllerPrivate]. It is comparable
// and may be printed.
type ControllerPublic [Size]byte

// ParseControllerPublic reads the form that String writes.
func ParseControllerPublic(text string) (ControllerPublic, error) {
	b, err := parseBytes(prefixControllerPublic, text)
	if err != nil {
		return ControllerPublic{}, fmt.Errorf("controller public key %q: %w", text, err)
	}
	k := ControllerPublic(b)
	if k.IsZero() {
		return ControllerPublic{}, ErrZero
	}
	return k, nil
}

// IsZero reports whether k holds no key.
func (k ControllerPublic) IsZero() bool { return k == ControllerPublic{} }

// String returns the key as text.
func (k ControllerPublic) String() string {
	return prefixControllerPublic + hex.EncodeToString(k[:])
}

// MarshalText implements [encoding.TextMarshaler].
func (k ControllerPublic) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *ControllerPublic) UnmarshalText(text []byte) error {
	parsed, err := ParseControllerPublic(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

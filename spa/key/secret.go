package key

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Size is the length in bytes of every secret and public key of this package.
const Size = 32

// Text prefixes: a key of one role does not parse as another.
const (
	prefixKnock             = "postern-knock-secret:"
	prefixHostKnock         = "postern-host-knock-secret:"
	prefixControllerPrivate = "postern-controller-private:"
	prefixControllerPublic  = "postern-controller-public:"
)

// Errors of the constructors and parsers.
var (
	ErrSize   = errors.New("a key is 32 bytes")
	ErrPrefix = errors.New("not a key of this kind")
	ErrHex    = errors.New("the key's digits are not hexadecimal")
	ErrZero   = errors.New("the key is missing or all zero")
)

// secret keeps 32 bytes behind a function: every fmt verb, slog and
// encoding/json print an address or nothing, never the bytes, and a struct that
// holds one cannot be compared with ==.
type secret struct {
	bytes func() *[Size]byte
}

func newSecret(b [Size]byte) secret { return secret{func() *[Size]byte { return &b }} }

func randomSecret() secret {
	var b [Size]byte
	rand.Read(b[:]) // never fails, see crypto/rand.Read
	return newSecret(b)
}

func secretFromBytes(b []byte) (secret, error) {
	if len(b) != Size {
		return secret{}, fmt.Errorf("%w, got %d", ErrSize, len(b))
	}
	if subtle.ConstantTimeCompare(b, make([]byte, Size)) == 1 {
		return secret{}, ErrZero // PROTOCOL 2.1
	}
	return newSecret([Size]byte(b)), nil
}

// parseBytes reads prefix and 64 hexadecimal digits. Its errors never quote the text.
func parseBytes(prefix, text string) ([]byte, error) {
	digits, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return nil, fmt.Errorf("%w: want the prefix %q", ErrPrefix, prefix)
	}
	if len(digits) != hex.EncodedLen(Size) {
		return nil, fmt.Errorf("%w: got %d hexadecimal digits, want %d", ErrSize,
			len(digits), hex.EncodedLen(Size))
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, ErrHex
	}
	return b, nil
}

func (s secret) isZero() bool { return s.bytes == nil }

func (s secret) mustBytes() *[Size]byte {
	if s.bytes == nil {
		panic("key: use of a zero key")
	}
	return s.bytes()
}

func (s secret) equal(o secret) bool {
	if s.isZero() || o.isZero() {
		return s.isZero() && o.isZero()
	}
	return subtle.ConstantTimeCompare(s.bytes()[:], o.bytes()[:]) == 1
}

// Knock is the knock secret that a device, a host or a join token shares with
// the controller. The zero Knock panics when used.
type Knock struct{ s secret }

// NewKnock returns a random knock secret.
func NewKnock() Knock { return Knock{randomSecret()} }

// KnockFromBytes copies 32 bytes, not all zero, into a Knock.
func KnockFromBytes(b []byte) (Knock, error) {
	s, err := secretFromBytes(b)
	return Knock{s}, err
}

// ParseKnock reads the form that Reveal writes. Its errors never quote the text.
func ParseKnock(text string) (Knock, error) {
	b, err := parseBytes(prefixKnock, text)
	if err != nil {
		return Knock{}, err
	}
	return KnockFromBytes(b)
}

// Reveal returns the secret as text, for its owner's private file or a sealed
// channel and nothing else.
func (k Knock) Reveal() string { return prefixKnock + hex.EncodeToString(k.s.mustBytes()[:]) }

// RevealBytes returns a copy of the secret's bytes, under the same rule as Reveal.
func (k Knock) RevealBytes() []byte { return append([]byte(nil), k.s.mustBytes()[:]...) }

// IsZero reports whether k holds no secret.
func (k Knock) IsZero() bool { return k.s.isZero() }

// Equal compares in constant time.
func (k Knock) Equal(o Knock) bool { return k.s.equal(o.s) }

// HostKnock is the secret of one session: the controller hands it to the host in
// its order and to the client in the grant. The zero HostKnock panics when used.
type HostKnock struct{ s secret }

// NewHostKnock returns a random host-knock secret.
func NewHostKnock() HostKnock { return HostKnock{randomSecret()} }

// HostKnockFromBytes copies 32 bytes, not all zero, into a HostKnock.
func HostKnockFromBytes(b []byte) (HostKnock, error) {
	s, err := secretFromBytes(b)
	return HostKnock{s}, err
}

// ParseHostKnock reads the form that Reveal writes. Its errors never quote the text.
func ParseHostKnock(text string) (HostKnock, error) {
	b, err := parseBytes(prefixHostKnock, text)
	if err != nil {
		return HostKnock{}, err
	}
	return HostKnockFromBytes(b)
}

// Reveal returns the secret as text, for its owner's private file or a sealed
// channel and nothing else.
func (k HostKnock) Reveal() string {
	return prefixHostKnock + hex.EncodeToString(k.s.mustBytes()[:])
}

// RevealBytes returns a copy of the secret's bytes, under the same rule as Reveal.
func (k HostKnock) RevealBytes() []byte { return append([]byte(nil), k.s.mustBytes()[:]...) }

// IsZero reports whether k holds no secret.
func (k HostKnock) IsZero() bool { return k.s.isZero() }

// Equal compares in constant time.
func (k HostKnock) Equal(o HostKnock) bool { return k.s.equal(o.s) }

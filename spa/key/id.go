package key

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
)

// IDSize is the length of an ID in bytes.
const IDSize = 16

// ErrID is returned for a text that is not the hexadecimal form of an ID.
var ErrID = errors.New("an id is 32 hexadecimal digits")

// ID names one device, host, join token or session. It is random, public and
// comparable; the zero ID names nothing.
type ID [IDSize]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails, see crypto/rand.Read
	return id
}

// ParseID reads the form that String writes.
func ParseID(s string) (ID, error) {
	if hex.DecodedLen(len(s)) != IDSize || len(s)%2 != 0 {
		return ID{}, ErrID
	}
	var id ID
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, ErrID
	}
	return id, nil
}

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String returns 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

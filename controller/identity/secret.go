package identity

import (
	"fmt"

	"github.com/postern-sdp/postern/spa/key"
)

// secret is a knock secret that marshals for the store, which is a private file,
// and prints nothing.
type secret struct{ key.Knock }

// Format implements [fmt.Formatter] and hides the secret from every verb.
func (secret) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[secret]") }

// MarshalText implements [encoding.TextMarshaler].
func (s secret) MarshalText() ([]byte, error) {
	if s.IsZero() {
		return nil, key.ErrZero
	}
	return []byte(s.Reveal()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *secret) UnmarshalText(text []byte) (err error) {
	s.Knock, err = key.ParseKnock(string(text))
	return err
}

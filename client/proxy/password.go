package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/url"
	"strings"
)

const (
	minPassword  = 12  // characters
	maxPassword  = 255 // bytes of user and password each (RFC 1929, section 2)
	randomUser   = "postern"
	randomLength = 32 // hexadecimal digits
)

// Password is a user's name and password. Like the keys of package spa/key it is kept
// behind a function, so that nothing prints it. The zero value asks for none.
type Password struct {
	text func() (user, password string)
}

// RandomPassword returns one that nobody can guess.
func RandomPassword() Password {
	secret := rand.Text() + rand.Text()
	return newPassword(randomUser, strings.ToLower(secret)[:randomLength])
}

// ParsePassword reads "USER:PASSWORD" and ignores the line's end. Its error is
// [ErrPassword], which never quotes the text.
func ParsePassword(line string) (Password, error) {
	user, password, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
	odd := func(r rune) bool { return r < ' ' || r == 0x7f }
	if !ok || user == "" || len(user) > maxPassword || len(password) > maxPassword ||
		len(password) < minPassword || strings.ContainsFunc(user+password, odd) {
		return Password{}, ErrPassword
	}
	return newPassword(user, password), nil
}

func newPassword(user, password string) Password {
	return Password{func() (string, string) { return user, password }}
}

// IsZero reports whether no password is asked for.
func (p Password) IsZero() bool { return p.text == nil }

// Is reports whether the password is the one given, in a time that does not depend on
// how much of it is right. The zero Password is none.
func (p Password) Is(user, password string) bool {
	if p.IsZero() {
		return false
	}
	got, want := digest(user, password), digest(p.text())
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// digest makes both equally long. A user's name has no colon that could be moved.
func digest(user, password string) [sha256.Size]byte {
	return sha256.Sum256([]byte(user + ":" + password))
}

// Reveal returns the password for a URL, which goes to the one program that is to use
// it. It is nil for the zero Password.
func (p Password) Reveal() *url.Userinfo {
	if p.IsZero() {
		return nil
	}
	return url.UserPassword(p.text())
}

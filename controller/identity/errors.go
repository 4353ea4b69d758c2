package identity

import (
	"errors"
	"fmt"
)

// Errors of this package.
var (
	ErrName = errors.New("a name is 1 to 63 lower-case letters, digits, '-' and '.', " +
		"and starts with a letter or digit")
	ErrNameID       = fmt.Errorf("%w, and is not of the form of an id", ErrName)
	ErrTaken        = errors.New("the name is taken")
	ErrUnknown      = errors.New("there is none of that name or id")
	ErrRole         = errors.New("a join token is for a client or a host")
	ErrUser         = errors.New("a client's join token needs a user; a host's has none")
	ErrLifetime     = errors.New("a join token lives between one minute and 30 days")
	ErrTokenUsed    = errors.New("the join token is used: ask for a new one")
	ErrTokenExpired = errors.New("the join token has expired: ask for a new one")
	ErrRevoked      = errors.New("revoked")
	ErrTarget       = errors.New("a target is host:port with a port from 1 to 65535")
	ErrPublicKey    = errors.New("a public key is missing")
	ErrHasServices  = errors.New("the host still has services: remove them first")
)

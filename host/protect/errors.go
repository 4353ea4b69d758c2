package protect

import "errors"

// Errors of this package.
var (
	ErrBusy      = errors.New("another command is changing the protection")
	ErrRecord    = errors.New("the protection's record is damaged")
	ErrNewer     = errors.New("the protection's record is of a newer version of this program")
	ErrNoTrial   = errors.New("there is no trial to confirm")
	ErrSameLogin = errors.New("this is the login that began the trial")
	ErrTrial     = errors.New("a trial's length is between 1s and 24h")
	// ErrUnsure comes with rules that are in force although nobody can tell that they
	// shall be.
	ErrUnsure = errors.New("the protection's record cannot be relied on, so the rules are in force")
)

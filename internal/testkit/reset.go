package testkit

import "errors"

// IsReset reports whether err is that of a TCP connection that was reset.
func IsReset(err error) bool { return errors.Is(err, connReset) }

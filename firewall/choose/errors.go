package choose

import "errors"

// Errors of this package.
var (
	ErrBackend = errors.New("no such firewall backend")
	// ErrNoIPTables is an order for a backend that this machine lacks something for.
	ErrNoIPTables = errors.New("the iptables backend cannot be used here")
)

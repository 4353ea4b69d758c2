package firewall

import "errors"

// Errors of this package and its backends.
var (
	ErrProtocol     = errors.New("protocol is neither tcp nor udp")
	ErrSource       = errors.New("not a usable source address")
	ErrInterface    = errors.New("not a usable interface name")
	ErrTTL          = errors.New("a time that is over before it begins")
	ErrPort         = errors.New("port 0 cannot be opened")
	ErrNotInstalled = errors.New("the table is not installed")
	ErrTooMany      = errors.New("too many openings in one change")
	ErrClosed       = errors.New("the firewall is closed")
	ErrPermission   = errors.New("the capability CAP_NET_ADMIN is missing: " +
		"run as root or give it with setcap or systemd's AmbientCapabilities")
)

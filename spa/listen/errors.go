package listen

import "errors"

// Errors of this package.
var (
	ErrPermission = errors.New("the capability CAP_NET_RAW is missing: run as root, or give it with" +
		" setcap cap_net_raw+ep FILE or systemd's AmbientCapabilities=CAP_NET_RAW")
	ErrPort     = errors.New("not a port to listen on: 0")
	ErrLength   = errors.New("payload length not within 1 to 1232 bytes")
	ErrAddress  = errors.New("not a usable address")
	ErrFamilies = errors.New("source and destination are not of one address family")
)

package client

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// noticeCuts has the kernel give a connection up whose data nobody acknowledges
// (TCP_USER_TIMEOUT, tcp(7)): it would go on for a quarter of an hour.
func noticeCuts(_, _ string, raw syscall.RawConn) error {
	var err error
	outer := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(cutNotice.Milliseconds()))
	})
	return errors.Join(outer, err)
}

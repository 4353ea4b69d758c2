package api

import (
	"fmt"
	"net"
	"syscall"
)

// peerUID returns the user at the other end of a unix socket, as the kernel knows it.
func peerUID(conn net.Conn) (int, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, fmt.Errorf("not a unix socket: %T", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil {
		return -1, fmt.Errorf("read peer credentials: %w", err)
	}
	if credErr != nil {
		return -1, fmt.Errorf("read peer credentials: %w", credErr)
	}
	return int(cred.Uid), nil
}

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-sdp/postern/internal/tunnel"
)

// serveSOCKS serves one client; a deadline for its request is set.
func (s *server) serveSOCKS(c *conn) {
	if !s.admit(c) {
		return
	}
	command, to, err := readRequest(c)
	switch {
	case errors.Is(err, errFamily):
		answer(c, replyNoFamily, netip.AddrPort{})
	case err != nil:
	case command == commandConnect:
		s.connect(c, to)
	case command == commandAssociate:
		s.associate(c, to)
	default:
		answer(c, replyNoCommand, netip.AddrPort{})
	}
}

// admit reports whether the client may use the proxy.
func (s *server) admit(c *conn) bool {
	methods, err := readMethods(c)
	if err != nil {
		return false
	}
	method := byte(methodNone)
	if !s.Password.IsZero() {
		method = methodPassword
	}
	if !slices.Contains(methods, method) {
		_, _ = c.Write([]byte{socksVersion, methodRefused}) // it is closed either way
		return false
	}
	if _, err := c.Write([]byte{socksVersion, method}); err != nil {
		return false
	}
	if method == methodNone {
		return true
	}
	user, password, err := readPassword(c)
	if err != nil {
		return false
	}
	good, status := s.Password.Is(user, password), byte(1)
	if good {
		status = 0
	}
	_, err = c.Write([]byte{passwordVersion, status})
	return good && err == nil
}

func answer(c net.Conn, reply byte, bound netip.AddrPort) bool {
	_ = c.SetWriteDeadline(time.Now().Add(helloLimit)) // a broken connection shows next
	_, err := c.Write(appendReply(nil, reply, bound))
	_ = c.SetWriteDeadline(time.Time{})
	return err == nil
}

// connect is the command CONNECT.
func (s *server) connect(c *conn, to address) {
	var remote duplex
	var err error
	c.whileThere(s.life, func(ctx context.Context) { remote, err = s.dial(ctx, to.host, to.port) })
	if err != nil {
		answer(c, explain(err).socks, netip.AddrPort{})
		return
	}
	if !answer(c, replyOK, netip.AddrPort{}) {
		remote.Close()
		return
	}
	_, _, _ = tunnel.Copy(s.life, c, remote) // both ends have seen what there was
}

package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// replier sends UDP datagrams from ports that no socket is bound to, through raw
// sockets: it makes the UDP header, the kernel the IP header. The kernel also
// refuses sources that are not the host's own.
type replier struct {
	ipv4, ipv6 *net.IPConn // ipv6 is nil on a host without IPv6
}

func newReplier() (*replier, error) {
	r := &replier{}
	var err error
	if r.ipv4, err = rawUDP("ip4:17", "0.0.0.0"); err != nil {
		return nil, err
	}
	r.ipv6, err = rawUDP("ip6:17", "::")
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return r, nil // without IPv6 there is nobody to reply to
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// rawUDP opens a raw socket that only sends. The kernel would queue a copy of each
// UDP packet that the host gets, so its filter drops everything.
func rawUDP(network, address string) (*net.IPConn, error) {
	filter, err := filterNothing()
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			if err = attachFilter(int(fd), filter); err == nil {
				discard(int(fd))
			}
		})
		return errors.Join(controlErr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, address)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("open raw socket: %w", ErrPermission)
	}
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	return conn.(*net.IPConn), nil // ListenPacket's documented type for "ip"
}

// discard empties the queue of what came before the filter was in place.
func discard(fd int) {
	var b [1]byte
	for {
		if _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

func (r *replier) send(b []byte, to, from netip.AddrPort) error {
	to, from, err := pair(to, from)
	if err != nil {
		return err
	}
	conn, wide := r.ipv4, false
	if to.Addr().Is6() {
		conn, wide = r.ipv6, true
	}
	if conn == nil {
		return fmt.Errorf("to %s: %w", to, unix.EAFNOSUPPORT)
	}
	control, err := sendFrom(from.Addr(), wide)
	if err != nil {
		return err
	}
	segment := appendUDP(make([]byte, 0, udpHeaderSize+len(b)), from, to, b)
	address := net.IPAddr{IP: to.Addr().AsSlice(), Zone: to.Addr().Zone()}
	_, _, err = conn.WriteMsgIP(segment, control, &address)
	return err
}

func (r *replier) close() error {
	err := r.ipv4.Close()
	if r.ipv6 != nil {
		err = errors.Join(err, r.ipv6.Close())
	}
	return err
}

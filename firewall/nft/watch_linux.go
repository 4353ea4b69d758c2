package nft

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/notify"
)

var _ firewall.Watcher = (*Firewall)(nil)

// Watch implements [firewall.Watcher].
func (f *Firewall) Watch(ctx context.Context, changed func()) error {
	own, err := portOf(f.socket)
	if err != nil {
		return err
	}
	return f.news.Run(ctx, func(c notify.Change) bool {
		return c.By != own && c.Family == byte(f.table.Family) && c.Table == f.table.Name
	}, changed)
}

// portOf is what the kernel knows a connection by.
func portOf(socket *netlink.Conn) (uint32, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("name of netlink socket: %w", err)
	}
	var name unix.Sockaddr
	var nameErr error
	if err := raw.Control(func(fd uintptr) { name, nameErr = unix.Getsockname(int(fd)) }); err != nil {
		return 0, fmt.Errorf("name of netlink socket: %w", err)
	}
	own, ok := name.(*unix.SockaddrNetlink)
	if !ok {
		return 0, fmt.Errorf("name of netlink socket: %w", nameErr)
	}
	return own.Pid, nil
}

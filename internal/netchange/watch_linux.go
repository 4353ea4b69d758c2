package netchange

import (
	"context"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch calls changed whenever the kernel tells of another address or route
// (rtnetlink(7)), until ctx ends.
func watch(ctx context.Context, changed func()) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE,
	})
	if err != nil {
		poll(ctx, changed) // a sandbox without netlink
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := conn.Receive()
		if ctx.Err() != nil {
			return
		}
		// An overflow is an error, and means changes.
		if err != nil {
			changed()
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
			continue
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
				changed()
			}
		}
	}
}

package main

import (
	"context"
	"net"
	"sync"

	"github.com/postern-sdp/postern/client"
)

// reach is how commands come to services: by a session of their own, or by one
// that another process of the same person has.
type reach interface {
	Dial(ctx context.Context, service string) (net.Conn, error)
	DialPacket(ctx context.Context, service string) (net.Conn, error)
}

var _ reach = (*client.Dialer)(nil)

// dialer returns a Dialer for a command that runs until it is told to end. It
// talks only when the person must act.
func (p program) dialer(device *client.Client, config client.DialerConfig) *client.Dialer {
	var warned sync.Map // services
	also := config.Notify
	config.Notify = func(service string, e client.Event) {
		if also != nil {
			also(service, e)
		}
		switch e.Kind {
		case client.EventNotRenewed:
			warned.Store(service, true)
			p.sayf("%s: session not renewed, it ends at %s: %v", service, clockTime(e.Deadline), e.Err)
		case client.EventRenewed:
			if _, was := warned.LoadAndDelete(service); was {
				p.sayf("%s: session renewed until %s", service, clockTime(e.Deadline))
			}
		}
	}
	return device.Dialer(config)
}

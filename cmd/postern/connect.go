package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
)

func (p program) connect() *cli.Command {
	return &cli.Command{
		Name:      "connect",
		Usage:     "carry connections to a service",
		ArgsUsage: "SERVICE",
		UsageText: "postern connect [--listen ADDRESS | --stdio] [--for DURATION] [--no-renew] [--json] SERVICE",
		Description: `Knocks, connects to the service's host, and offers the service on a local TCP
port, whose address is printed on standard output, until Ctrl-C. The session is
renewed while connections are open and policy allows, and comes back after a break.

   $ postern connect ssh --listen 127.0.0.1:2222
   $ ssh -p 2222 me@127.0.0.1

With --stdio, standard input and output are one connection to the service, for
programs that start this one:

   $ ssh -o ProxyCommand='postern connect --stdio %h' me@ssh

A UDP service is offered on a local UDP port ("udp 127.0.0.1:40000").`,
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "listen", Value: "127.0.0.1:0", Usage: "local `ADDRESS` to listen on; port 0 takes a free one",
			},
			&cli.BoolFlag{Name: "listen-anyone", Usage: "let --listen take an address that others can reach"},
			&cli.BoolFlag{Name: "stdio", Usage: "connect standard input and output"},
			forFlag(),
			&cli.BoolFlag{Name: "no-renew", Usage: "end at the session's first deadline"},
			jsonFlag(),
		},
		Action: p.runConnect,
	}
}

func (p program) runConnect(c *cli.Context) error {
	service, err := only(c, "service")
	if err != nil {
		return err
	}
	asked, err := length(c)
	if err != nil {
		return err
	}
	stdio := c.Bool("stdio")
	if stdio && (c.IsSet("listen") || c.Bool("listen-anyone") || c.Bool("json")) {
		return usagef("connect: --stdio goes with neither --listen nor --json")
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	var listener net.Listener
	if !stdio { // before the knock: a port that is taken needs no session
		if listener, err = client.Listen(c.Context, c.String("listen"), c.Bool("listen-anyone")); err != nil {
			return err
		}
		defer listener.Close()
	}
	access, err := device.Access(c.Context, client.AccessConfig{
		Service: service, For: asked, NoRenew: c.Bool("no-renew"), Notify: p.notify(stdio),
	})
	if err != nil {
		return explain(device, err)
	}
	defer access.Close()
	if access.Granted().Access().Transport == control.TransportUDP {
		if listener != nil {
			listener.Close() // it was for TCP
		}
		return p.packets(c, access, stdio)
	}
	if stdio {
		return p.pipe(c.Context, access)
	}
	return p.offer(c, access, listener)
}

// offer prints the local address and serves it until Ctrl-C.
func (p program) offer(c *cli.Context, access *client.Access, l net.Listener) error {
	address := l.Addr().String()
	var err error
	if c.Bool("json") {
		g := grantText(access.Granted())
		g.Listen = address
		err = p.printJSON(g)
	} else {
		_, err = fmt.Fprintln(p.out, address)
	}
	if err != nil {
		return err
	}
	if err := access.Serve(c.Context, l); err != nil {
		return err
	}
	p.sayf("session closed")
	return context.Cause(c.Context)
}

// packets offers a UDP service on a local port until Ctrl-C.
func (p program) packets(c *cli.Context, access *client.Access, stdio bool) error {
	g := access.Granted()
	if stdio {
		return usagef("connect: %s speaks UDP, which goes with no --stdio", g.Service)
	}
	l, err := client.ListenPacket(c.Context, c.String("listen"), c.Bool("listen-anyone"))
	if err != nil {
		return err
	}
	defer l.Close()
	if c.Bool("json") {
		text := grantText(g)
		text.Listen = l.LocalAddr().String()
		err = p.printJSON(text)
	} else {
		_, err = fmt.Fprintln(p.out, "udp", l.LocalAddr())
	}
	if err != nil {
		return err
	}
	if err := access.ServePackets(c.Context, l); err != nil {
		return err
	}
	p.sayf("session closed")
	return context.Cause(c.Context)
}

// pipe is one connection on standard input and output.
func (p program) pipe(ctx context.Context, access *client.Access) error {
	err := access.Pipe(ctx, newStdio(p.in, p.out))
	if over := access.Err(); over != nil && err != nil {
		return over
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// notify tells what happens while connections are carried.
func (p program) notify(stdio bool) func(client.Event) {
	return func(e client.Event) {
		until := clockTime(e.Deadline)
		switch e.Kind {
		case client.EventGranted:
			if !stdio { // ssh shows what its proxy says: be quiet when all is well
				p.sayf("session until %s", until)
			}
		case client.EventRenewed:
			if !stdio {
				p.sayf("session renewed until %s", until)
			}
		case client.EventNotRenewed:
			p.sayf("session not renewed, it ends at %s: %v", until, e.Err)
		case client.EventLost:
			if errors.Is(e.Err, client.ErrRevoked) || stdio {
				return // the command's own end says so
			}
			p.sayf("%v; the next connection knocks again", e.Err)
		case client.EventRefused:
			p.complain(e.Err)
		}
	}
}

// clockTime is a time of day, with the date when it is not today's.
func clockTime(t time.Time) string {
	if time.Until(t) > 20*time.Hour {
		return t.Local().Format(time.DateTime)
	}
	return t.Local().Format(time.TimeOnly)
}

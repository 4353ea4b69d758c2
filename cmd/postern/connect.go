package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/agent"
	"github.com/postern-sdp/postern/internal/control"
)

func (p program) connect() *cli.Command {
	return &cli.Command{
		Name:      "connect",
		Usage:     "carry connections to services",
		ArgsUsage: "SERVICE...",
		UsageText: "postern connect [-L [SERVICE=]ADDRESS]... [--for DURATION] [--no-renew] [--json] SERVICE...\n" +
			"postern connect --stdio [--no-agent] SERVICE",
		Description: `Knocks, connects to the service's host, and offers the service on a local port,
whose address is printed on standard output, until Ctrl-C. The session is renewed
while connections are open and policy allows, and comes back after a break.

   $ postern connect ssh -L 127.0.0.1:2222
   $ ssh -p 2222 me@127.0.0.1

Many services at once have a line each. An address is for the service named before
it, or in the order of the services; a service without one gets a free port:

   $ postern connect db web -L db=5432 -L web=127.0.0.1:8080 -L web=[::1]:8080

With --stdio, standard input and output are one connection to the service, for
programs that start this one. They share one session: see postern agent.

   $ ssh -o ProxyCommand="postern connect --stdio '%h'" me@ssh

A UDP service is offered on a local UDP port ("udp 127.0.0.1:40000").`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{
				Name: "listen", Aliases: []string{"L"},
				Usage: "local `ADDRESS` to listen on, or a port of 127.0.0.1; 0 takes a free one (default: 0)",
			},
			&cli.BoolFlag{Name: "listen-anyone", Usage: "let --listen take an address that others can reach"},
			&cli.BoolFlag{Name: "stdio", Usage: "connect standard input and output"},
			&cli.BoolFlag{
				Name: "no-agent", EnvVars: []string{"POSTERN_NO_AGENT"},
				Usage: "with --stdio, have a session of one's own",
			},
			forFlag(),
			&cli.BoolFlag{Name: "no-renew", Usage: "end at the session's first deadline"},
			jsonFlag(),
		},
		Action:       p.runConnect,
		BashComplete: p.completeService,
	}
}

func (p program) runConnect(c *cli.Context) error {
	if _, err := length(c); err != nil {
		return err
	}
	if c.Bool("stdio") {
		return p.runStdio(c)
	}
	var services []string
	for _, s := range c.Args().Slice() {
		services = append(services, client.ServiceName(s))
	}
	wanted, err := forwards(services, c.StringSlice("listen"))
	if err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	return p.forward(c, device, wanted)
}

// runStdio is one connection, over the agent if that is possible.
func (p program) runStdio(c *cli.Context) error {
	service, err := only(c, "service")
	if err != nil {
		return err
	}
	service = client.ServiceName(service)
	if c.IsSet("listen") || c.Bool("listen-anyone") || c.Bool("json") {
		return usagef("connect: --stdio goes with neither --listen nor --json")
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	own := c.Bool("no-agent") || c.IsSet("for") || c.Bool("no-renew") || p.spawn == nil
	if !own {
		err := p.pipeShared(c, device, service)
		if !errors.Is(err, agent.ErrNoAgent) && !errors.Is(err, agent.ErrFolder) {
			return explain(device, err)
		}
	}
	asked, _ := length(c)
	access, err := device.Access(c.Context, client.AccessConfig{
		Service: service, For: asked, NoRenew: c.Bool("no-renew"), Notify: p.notify("", true),
	})
	if err != nil {
		return explain(device, err)
	}
	defer access.Close()
	if access.Granted().Access().Transport == control.TransportUDP {
		return errUDPStdio(service)
	}
	return p.pipe(c.Context, access)
}

func errUDPStdio(service string) error {
	return usagef("connect: %s speaks UDP, which goes with no --stdio", service)
}

// pipeShared is one connection of a session that the agent holds.
func (p program) pipeShared(c *cli.Context, device *client.Client, service string) error {
	r, err := p.shared(c, device)
	if err != nil {
		return fmt.Errorf("%w: %w", agent.ErrNoAgent, err)
	}
	r.Notify = p.notify("", true)
	conn, err := r.Dial(c.Context, service)
	if errors.Is(err, client.ErrNotTCP) {
		return errUDPStdio(service)
	}
	if err != nil {
		if c.Context.Err() != nil {
			return context.Cause(c.Context)
		}
		return err
	}
	err = client.Copy(c.Context, newStdio(p.in, p.out), conn.(client.Duplex))
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return err
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

// notify tells what happens while connections are carried. who is named in front
// when there is more than one service.
func (p program) notify(who string, stdio bool) func(client.Event) {
	if who != "" {
		who += ": "
	}
	var warned atomic.Bool
	return func(e client.Event) {
		until := clockTime(e.Deadline)
		switch e.Kind {
		case client.EventGranted:
			if !stdio { // ssh shows what its proxy says: be quiet when all is well
				p.sayf("%ssession until %s", who, until)
			}
		case client.EventRenewed:
			if warned.Swap(false) || !stdio {
				p.sayf("%ssession renewed until %s", who, until)
			}
		case client.EventNotRenewed:
			warned.Store(true)
			p.sayf("%ssession not renewed, it ends at %s: %v", who, until, e.Err)
		case client.EventLost:
			if errors.Is(e.Err, client.ErrRevoked) || stdio {
				return // the command's own end says so
			}
			p.sayf("%s%v; the next connection knocks again", who, e.Err)
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

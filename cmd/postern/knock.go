package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
)

func (p program) knock() *cli.Command {
	return &cli.Command{
		Name:      "knock",
		Usage:     "ask for a session and say what came of it",
		ArgsUsage: "SERVICE",
		UsageText: "postern knock [--for DURATION] [--json] SERVICE",
		Description: `Sends one knock and prints the grant: the session's number, its deadline and
where the service's host is. It shows that knocks arrive and what policy says; to
use a service through a tunnel, connect does its own knocking.

A service of mode direct is open to this machine's address from then on, until the
deadline: any program may speak to the address that is printed.

   $ postern knock ssh
   $ postern knock db && psql -h 198.51.100.30`,
		Flags:        []cli.Flag{forFlag(), jsonFlag()},
		Action:       p.runKnock,
		BashComplete: p.completeService,
	}
}

func forFlag() cli.Flag {
	return &cli.DurationFlag{
		Name: "for", Usage: "`DURATION` to ask for, like 30s, 10m or 8h (default: as long as policy gives)",
	}
}

func length(c *cli.Context) (time.Duration, error) {
	d := c.Duration("for")
	if d < 0 || c.IsSet("for") && d < time.Second {
		return 0, usagef("%s: --for %s: want at least 1s", c.Command.Name, d)
	}
	return d, nil
}

func (p program) runKnock(c *cli.Context) error {
	service, err := only(c, "service")
	if err != nil {
		return err
	}
	asked, err := length(c)
	if err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	begin := time.Now()
	stop := p.waiting(controllersAnswer)
	granted, err := device.Knock(c.Context, service, asked)
	stop()
	if err != nil {
		return explain(device, err)
	}
	if c.Bool("json") {
		return p.printJSON(grantText(granted))
	}
	p.sayf("granted in %s", time.Since(begin).Round(10*time.Microsecond))
	access := granted.Access()
	_, err = fmt.Fprintf(p.out, "session %s\nservice %s (%s, %s)\nuntil   %s\nhost    %s at %s\n",
		granted.Session, granted.Service, access.Mode, access.Transport,
		granted.Deadline.Local().Format(time.RFC3339),
		granted.Host, strings.Join(granted.Addresses(), ", "))
	return err
}

// grantJSON is what people and scripts get to see of a session.
type grantJSON struct {
	Session   string    `json:"session"`
	Service   string    `json:"service"`
	Deadline  time.Time `json:"deadline"`
	Host      string    `json:"host"`
	Addresses []string  `json:"addresses"`
	control.Access
	Listen string `json:"listen,omitempty"` // of connect
}

func grantText(g client.Granted) grantJSON {
	return grantJSON{
		Session: g.Session.String(), Service: g.Service, Deadline: g.Deadline.UTC(),
		Host: g.Host.String(), Addresses: g.Addresses(), Access: g.Access(),
	}
}

package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

func (p program) services() *cli.Command {
	return &cli.Command{
		Name:      "services",
		Usage:     "list what you may reach",
		UsageText: "postern services [--json]",
		Description: `Asks the controller, which names what your grants allow, and those other services
that an administrator wants to be known, with the reason why you may not reach them.

   $ postern services
   $ postern services --json`,
		Flags:  []cli.Flag{jsonFlag()},
		Action: p.runServices,
	}
}

func (p program) runServices(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	stop := p.waiting(controllersAnswer)
	found, err := p.list(c.Context, device)
	stop()
	if err != nil {
		return explain(device, err)
	}
	if c.Bool("json") {
		return p.printJSON(found)
	}
	if len(found.Services) == 0 && len(found.Others) == 0 {
		p.sayf("%s may reach nothing yet", found.User)
		p.hintf("your administrator grants services with postern-controller grant")
		return nil
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tHOST\tMODE\tPROTOCOL\tSTATE\tFOR")
	for _, s := range found.Services {
		state, access := "offline", s.Access.Resolved()
		if s.Online {
			state = "online"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Host, access.Mode, access.Transport, state, time.Duration(s.For).Round(time.Second))
	}
	if len(found.Services) == 0 {
		p.sayf("%s may reach nothing yet", found.User)
	}
	for _, s := range found.Others {
		fmt.Fprintf(t, "%s\t-\t-\t-\t%s\t-\n", s.Name, s.Reason)
	}
	return t.Flush()
}

package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
)

func (p program) status() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show this device's identity and its sessions",
		UsageText: "postern status [--local] [--json]",
		Description: `Shows what this device knows of itself, and asks the controller for its live
sessions.

   $ postern status
   $ postern status --local --json`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "local", Usage: "ask nobody"},
			jsonFlag(),
		},
		Action: p.runStatus,
	}
}

type statusJSON struct {
	client.Status
	Answers  *bool                `json:"controller_answers,omitempty"`
	Sessions []client.SessionInfo `json:"sessions,omitempty"`
}

func (p program) runStatus(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	status := statusJSON{Status: device.Status()}
	var asked error
	if !c.Bool("local") {
		status.Sessions, asked = device.Sessions(c.Context)
		answers := asked == nil
		status.Answers = &answers
		status.Status = device.Status() // the certificate may be a new one by now
	}
	if c.Bool("json") {
		err = p.printJSON(status)
	} else {
		err = p.printStatus(status, time.Now())
	}
	return errors.Join(explain(device, asked), err)
}

func (p program) printStatus(s statusJSON, now time.Time) error {
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	row("device\t%s (%s)", s.Name, s.Device)
	row("identity\t%s", s.Folder)
	row("controller\t%s at %s", s.Controller, strings.Join(s.Addresses, ", "))
	when := "expires"
	if now.After(s.Expires) {
		when = "expired"
	}
	row("certificate\t%s %s", when, s.Expires.Local().Format(time.DateTime))
	row("clock\t%s, the controller's is %s ahead", now.UTC().Format("2006-01-02 15:04:05 UTC"),
		time.Duration(s.ClockOffset).Round(time.Millisecond))
	if s.Answers != nil && *s.Answers {
		row("answers\tyes")
		row("sessions\t%d", len(s.Sessions))
		for _, x := range s.Sessions {
			row("  %s\t%s on %s until %s", x.ID, x.Service, x.Host, x.Deadline.Local().Format(time.DateTime))
		}
	} else if s.Answers != nil {
		row("answers\tno")
	}
	return t.Flush()
}

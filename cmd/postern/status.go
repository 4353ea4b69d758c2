package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/agent"
	"github.com/postern-sdp/postern/internal/control"
)

func (p program) status() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show this device's identity and its sessions",
		UsageText: "postern status [--local] [--watch [--interval DURATION]] [--json]",
		Description: `Shows what this device knows of itself, what your running commands have open
(time left, path, round trip, bytes on the wire), and the device's live sessions as
the controller sees them.

   $ postern status
   $ postern status --watch
   $ postern status --local --json

With --watch it shows them again and again, until Ctrl-C, and asks the controller
now and then; with --json as well, each look is one line.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "local", Usage: "ask nobody else"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again and again"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`DURATION` between two looks"},
			jsonFlag(),
		},
		Action: p.runStatus,
	}
}

type statusJSON struct {
	client.Status
	Here     []agent.Process      `json:"here"`              // this person's running commands
	Profile  string               `json:"profile,omitempty"` // none for a folder named by hand
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
	if c.Bool("watch") {
		return p.watch(c, device)
	}
	stop := p.waiting(controllersAnswer)
	status, asked := look(c.Context, device, !c.Bool("local"))
	stop()
	_, status.Profile, _ = chosen(c) // open has been through it
	if c.Bool("json") {
		err = p.printJSON(status)
	} else {
		err = printStatus(p.out, status, time.Now())
	}
	return errors.Join(explain(device, asked), err)
}

// look gathers the status. Whether the controller did not answer is in it too.
func look(ctx context.Context, device *client.Client, ask bool) (statusJSON, error) {
	var status statusJSON
	var asked error
	if ask {
		status.Sessions, asked = device.Sessions(ctx)
		answers := asked == nil
		status.Answers = &answers
	}
	status.Status = device.Status() // the certificate may be a new one by now
	var err error
	if status.Here, err = agent.Processes(ctx, status.Folder); err != nil {
		status.Here = []agent.Process{}
	}
	return status, asked
}

func printStatus(out io.Writer, s statusJSON, now time.Time) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	row("device\t%s (%s)", s.Name, s.Device)
	if s.Profile != "" {
		row("profile\t%s", s.Profile)
	}
	row("identity\t%s", s.Folder)
	row("controller\t%s at %s", s.Controller, strings.Join(s.Addresses, ", "))
	when := "expires"
	if now.After(s.Expires) {
		when = "expired"
	}
	row("certificate\t%s %s", when, s.Expires.Local().Format(time.DateTime))
	row("clock\t%s, the controller's is %s ahead", now.UTC().Format("2006-01-02 15:04:05 UTC"),
		time.Duration(s.ClockOffset).Round(time.Millisecond))
	for _, h := range s.Here {
		row("%s\tprocess %d since %s", h.Kind, h.PID, clockTime(h.Started))
		for _, x := range h.Sessions {
			row("  %s\t%s", x.Service, describe(x, now))
		}
	}
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

// describe is one line about an open access.
func describe(x client.AccessInfo, now time.Time) string {
	parts := []string{fmt.Sprintf("%s left", max(0, x.Deadline.Sub(now)).Round(time.Second))}
	if x.Connected {
		parts = append(parts, fmt.Sprintf("at %s", x.Path),
			fmt.Sprintf("round trip %s", time.Duration(x.RTT).Round(10*time.Microsecond)),
			fmt.Sprintf("%s sent, %s received", size(x.Sent), size(x.Received)))
	} else if x.Access.Resolved().Mode == control.ModeDirect {
		parts = append(parts, "direct")
	} else {
		parts = append(parts, "no tunnel")
	}
	return strings.Join(append(parts, fmt.Sprintf("%d open", x.Streams)), ", ")
}

// size is a number of bytes for people.
func size(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	x, unit := float64(n), 0
	for x >= 1000 && unit < len(units)-1 {
		x, unit = x/1000, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", x, units[unit])
}

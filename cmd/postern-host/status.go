package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/host"
)

func (p program) status() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show the link, the sessions and the pinholes of the running agent",
		UsageText: "postern-host status [--json] [--watch [--interval 1s]] [--config FILE]",
		Description: `Asks the agent over its status socket, which only root and the agent's own user can
open. With --watch it asks again and again until Ctrl-C: a terminal is drawn anew, anything
else is appended to; with --json each line is one document.

   $ postern-host status
   $ postern-host status --watch
   $ postern-host status --watch --json --interval 10s | jq .sessions`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show it again and again until Ctrl-C"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between two looks, at least 100ms"},
		},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			if c.Bool("watch") {
				return p.watch(c, s.StatusSocket)
			}
			if c.IsSet("interval") {
				return usageError{fmt.Errorf("status: --interval is for --watch only")}
			}
			status, err := readStatus(c.Context, s.StatusSocket)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				e := json.NewEncoder(p.out)
				e.SetIndent("", "  ")
				return e.Encode(status)
			}
			return printStatus(p.out, status, time.Now())
		},
	}
}

func readStatus(ctx context.Context, socket string) (host.Status, error) {
	status, err := host.ReadStatus(ctx, socket)
	if err != nil {
		return host.Status{}, hintError{err, "is the agent running, and are you root or its user? try " +
			"sudo postern-host status, or systemctl status postern-host"}
	}
	return status, nil
}

func printStatus(w io.Writer, s host.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	row("host\t%s (%s)", s.Name, s.Host)
	row("version\t%s, up %s", s.Version, now.Sub(s.Started).Round(time.Second))
	link := "connected since " + s.Link.Since.Format(time.DateTime)
	if !s.Link.Connected {
		link = fmt.Sprintf("down since %s: %s", s.Link.Since.Format(time.DateTime), s.Link.Error)
	}
	row("controller\t%s", link)
	row("certificate\texpires %s, in %s", s.CertificateExpires.Local().Format(time.DateTime),
		s.CertificateExpires.Sub(now).Round(time.Second))
	row("firewall\t%s, protection %s", s.Firewall, s.Protection)
	if d := s.Dropped; d != nil {
		row("dropped\t%d to the host, %d at doors, %d forwarded, %d going out", d.Input, d.Door, d.Forward, d.Output)
	}
	row("host knocks\t%d taken, %d silenced at the socket, capture %s",
		s.HostKnocks["ok"], s.Silenced, onOff(s.Capture))
	if s.MetricsError != "" {
		row("metrics\tNOT SERVED: %s", s.MetricsError)
	}
	row("sessions\t%d", len(s.Sessions))
	for _, x := range s.Sessions {
		state := "waits for its host knock"
		if x.Bound {
			state = fmt.Sprintf("%d tunnels, %d bytes", x.Tunnels, x.Bytes)
		}
		row("  %s\t%s (%s) -> %s from %s, %s left, %s", x.ID, x.Service, x.Mode, x.Target, x.Source,
			time.Duration(x.Left).Round(time.Second), state)
	}
	row("pinholes\t%d", len(s.Pinholes))
	for _, x := range s.Pinholes {
		row("  %s\tto %s/%d, %s left", x.Source, x.Protocol, x.Port, time.Duration(x.Left).Round(time.Second))
	}
	printEmergency(row, s.Emergency)
	return t.Flush()
}

func printEmergency(row func(format string, args ...any), e host.EmergencyStatus) {
	if len(e.Keys) == 0 && len(e.Openings) == 0 {
		return
	}
	ready := "refused while there is a controller"
	if e.Ready {
		ready = "would be taken now"
	}
	row("emergency\t%d keys, knocks %s; %d refused, %d not recorded, %d failed, %d records not told",
		len(e.Keys), ready, e.Refused, e.Unwritten, e.Failed, e.Untold)
	for _, o := range e.Openings {
		row("  %s\tOPEN: %s (%s) to %s, key %s use %d, %s left", o.ID, o.Service, o.Port, o.Source, o.Key,
			o.Counter, time.Duration(o.Left).Round(time.Second))
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

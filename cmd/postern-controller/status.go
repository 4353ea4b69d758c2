package main

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show the running controller's condition",
		UsageText: "postern-controller status [--json]",
		Description: `Counts of knocks are by the outcome of the checks: only "ok" was answered.

Example:
  $ postern-controller status --json`,
		OnUsageError: asUsage,
		Action:       statusAction,
		Flags:        []cli.Flag{jsonFlag()},
	}
}

func statusAction(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	s, err := a.Status(c.Context)
	if err != nil {
		return err
	}
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, s)
	}
	return printStatus(c, s)
}

func printStatus(c *cli.Context, s api.Status) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, name+"\t"+format+"\n", args...)
	}
	line("name", "%s", s.Name)
	line("version", "%s", s.Version)
	line("running since", "%s (%s)", when(s.Since), time.Since(s.Since).Round(time.Second))
	line("knock port", "%s (%s)", s.Knock, s.Source)
	line("control port", "%s (capture: %s)", s.Control, yes(s.Capture))
	line("firewall", "%s", s.Firewall)
	line("devices", "%d", s.Devices)
	line("hosts", "%d, %d connected", s.Hosts, s.Online)
	line("services", "%d", s.Services)
	line("sessions", "%d", s.Sessions)
	line("emergencies", "%d records told by hosts, %d not credible", s.Emergencies, s.BadReports)
	line("answered", "%d granted, %d denied, %d turned away busy", s.Granted, s.Denied, s.Busy)
	for _, reason := range slices.Sorted(maps.Keys(s.Knocks)) {
		line("knocks: "+reason, "%d", s.Knocks[reason])
	}
	for _, reason := range slices.Sorted(maps.Keys(s.HostKnocks)) {
		line("control port: "+reason, "%d", s.HostKnocks[reason])
	}
	line("dropped by the kernel", "%d", s.Dropped)
	line("certificate until", "%s", when(s.CertificateExpires))
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

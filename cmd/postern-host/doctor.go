package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host/doctor"
	"github.com/postern-sdp/postern/host/protect"
)

func (p program) doctor() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "say what is wrong with this host, and what a stranger would see of it",
		UsageText: "postern-host doctor [--json] [--config FILE] [--port PORT]",
		Description: `Looks at rights, clock, identity, the way to the controller, our rules and those of
others, and lists what listens here and who gets to it. It changes nothing. It
knocks at the controller unless the agent is connected to it already.

Run it as root: others see less. The exit code is 1 when a check fails; warnings
alone leave it 0.

   $ postern-host doctor
   $ postern-host doctor --port tcp/22
   $ postern-host doctor --json`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringFlag{Name: "port", Usage: "ask what other filters do with `PORT`, like tcp/22, or 4042 " +
				"for UDP (default: the tunnel's)"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("doctor: takes no argument, got %q", c.Args().First())}
			}
			port, err := parsePort(c.String("port"))
			if err != nil {
				return usageError{fmt.Errorf("doctor: %w", err)}
			}
			cfg := doctor.Config{Port: port}
			if cfg.Settings, cfg.Fault = settings(c); cfg.Fault != nil {
				cfg.Settings = lastGood()
			}
			cfg.Protection = func() (string, error) {
				record, clock, err := protect.Store{Folder: cfg.Settings.State}.Read()
				return string(record.At(clock)), err
			}
			return p.printReport(doctor.Examine(c.Context, cfg), c.Bool("json"))
		},
	}
}

// parsePort reads "tcp/22", "udp/53" and "53"; nothing is the zero port.
func parsePort(text string) (firewall.Port, error) {
	if text == "" {
		return firewall.Port{}, nil
	}
	protocol, number, both := strings.Cut(text, "/")
	if !both {
		protocol, number = "udp", text
	}
	p := map[string]firewall.Protocol{"tcp": firewall.TCP, "udp": firewall.UDP}[protocol]
	n, err := strconv.ParseUint(number, 10, 16)
	if p == 0 || err != nil || n == 0 {
		return firewall.Port{}, fmt.Errorf("--port %q: want the form tcp/22, udp/53 or 53", text)
	}
	return firewall.Port{Protocol: p, Number: uint16(n)}, nil
}

var errUnwell = errors.New("something is wrong with this host")

func (p program) printReport(r doctor.Report, asJSON bool) error {
	write := func() error { return printReport(p.out, r, coloured(p.out)) }
	if asJSON {
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		write = func() error { return e.Encode(r) }
	}
	if err := write(); err != nil {
		return err
	}
	if r.Failures > 0 {
		return fmt.Errorf("%w: failed checks: %d", errUnwell, r.Failures)
	}
	return nil
}

// coloured reports whether w is a terminal whose user has nothing against colours.
func coloured(w io.Writer) bool {
	f, isFile := w.(*os.File)
	if !isFile || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// printReport prints aligned lines, what is to be done under what was found.
func printReport(w io.Writer, r doctor.Report, colour bool) error {
	var b strings.Builder
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Name))
	}
	for _, f := range r.Findings {
		state := painted(fmt.Sprintf("%-4s", f.State), f.State, colour)
		fmt.Fprintf(&b, "%s  %-*s  %s\n", state, width, f.Name, f.Found)
		if f.Do != "" {
			fmt.Fprintf(&b, "%*s  -> %s\n", 4+2+width, "", f.Do)
		}
	}
	if len(r.Doors) > 0 {
		b.WriteString("\nWhat answers here, and to whom:\n")
		if err := printDoors(&b, r.Doors); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "\nchecks %d, warnings %d, failures %d: %s\n",
		len(r.Findings), r.Warnings, r.Failures, r.Stranger)
	_, err := io.WriteString(w, b.String())
	return err
}

func printDoors(w io.Writer, doors []doctor.Door) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range doors {
		port := fmt.Sprintf("%s/%d", d.Protocol, d.Port)
		if d.Last != 0 {
			port += fmt.Sprintf("-%d", d.Last)
		}
		where := "on " + d.Address
		if d.Published {
			where = "sent on to " + d.Address
		}
		program := d.Program
		if program == "" {
			program = "?"
		}
		sees := map[doctor.Sight]string{
			doctor.Dark: "dark", doctor.Kept: "open to " + d.Why, doctor.Hidden: "hidden by " + d.Why,
			doctor.Visible: "VISIBLE", doctor.Unsure: "unsure: " + d.Why,
		}[d.Sees]
		if d.Sees == doctor.Visible && d.Why != "" {
			sees += " (" + d.Why + ")"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", port, where, program, sees)
	}
	return t.Flush()
}

// painted puts a terminal's colours around text.
func painted(text string, s doctor.State, colour bool) string {
	codes := map[doctor.State]string{doctor.OK: "32", doctor.Warn: "33", doctor.Fail: "31", doctor.Skip: "2"}
	if !colour {
		return text
	}
	return "\x1b[" + codes[s] + "m" + text + "\x1b[0m"
}

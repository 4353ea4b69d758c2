package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/doctor"
)

func (p program) doctor() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "try each step of an access, and say which one fails",
		ArgsUsage: "[SERVICE]",
		UsageText: "postern doctor [--no-probe | --probe KIND=WHERE...] [--json] [SERVICE]",
		Description: `Looks at the identity, the clock and the way to the controller, knocks and, with a
service, goes through its door and opens one connection: what works, how long it
took, what fails, and what to do about it.

   $ postern doctor
   $ postern doctor db

When nobody answers, it finds out what kind of network this is: none, a captive
portal, one that blocks UDP, or this port, or whose names do not resolve. For that
it asks others, who learn this machine's address: a web page of Cloudflare's and
one of Mozilla's, the DNS servers 1.1.1.1 and 9.9.9.9, STUN servers of Cloudflare's
and Google's. --no-probe asks nobody; --probe asks yours:

   $ postern doctor --probe web=http://portal.example/204 --probe dns=192.0.2.53:53 --probe stun=stun.example:3478

A web probe has to answer with status 204. The exit code is that of the step that
failed, as for every command (see postern --help).`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-probe", Usage: "ask nobody but the controller and the host"},
			&cli.StringSliceFlag{Name: "probe", Usage: "ask this one instead: `KIND=WHERE`, with web=URL, dns=ADDRESS or stun=ADDRESS"},
			jsonFlag(),
		},
		Action:       p.runDoctor,
		BashComplete: p.completeService,
	}
}

func (p program) runDoctor(c *cli.Context) error {
	if c.NArg() > 1 {
		return usagef("doctor: one service, please, not %d", c.NArg())
	}
	probes, err := parseProbes(c)
	if err != nil {
		return err
	}
	path, err := folder(c)
	if err != nil {
		return err
	}
	config := doctor.Config{
		Folder: path, Timeout: c.Duration("timeout"), Service: client.ServiceName(c.Args().First()), Probes: probes,
	}
	asJSON, colour := c.Bool("json"), coloured(p.out)
	if !asJSON {
		config.Tell = func(f doctor.Finding) { printFinding(p.out, f, colour) }
	}
	report := doctor.Examine(c.Context, config)
	if asJSON {
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		_, err = fmt.Fprintf(p.out, "\n%s\n", report.Verdict)
	}
	if err == nil && report.Err != nil {
		err = examined{report.Err}
	}
	return err
}

// examined is an error that was told in full already.
type examined struct{ error }

// Unwrap returns the error.
func (e examined) Unwrap() error { return e.error }

func parseProbes(c *cli.Context) (*doctor.Probes, error) {
	given := c.StringSlice("probe")
	if c.Bool("no-probe") {
		if len(given) > 0 {
			return nil, usagef("doctor: --probe or --no-probe, please")
		}
		return nil, nil
	}
	probes := doctor.DefaultProbes()
	if len(given) > 0 {
		probes = doctor.Probes{}
	}
	for _, text := range given {
		kind, where, _ := strings.Cut(text, "=")
		u, err := url.Parse(where)
		switch {
		case kind == "web" && err == nil && u.Scheme == "http" && u.Host != "":
			probes.Web = append(probes.Web, doctor.Page{URL: where, Code: 204})
		case kind == "dns" && where != "":
			probes.Plain = append(probes.Plain, where)
		case kind == "stun" && where != "":
			probes.STUN = append(probes.STUN, where)
		default:
			return nil, usagef("doctor: --probe %s: want web=http://..., dns=ADDRESS:PORT or stun=ADDRESS:PORT", text)
		}
	}
	return &probes, nil
}

func printFinding(w io.Writer, f doctor.Finding, colour bool) {
	took := ""
	if f.Took > 0 {
		took = fmt.Sprintf(" (%s)", time.Duration(f.Took))
	}
	fmt.Fprintf(w, "%s  %-18s  %s%s\n", painted(fmt.Sprintf("%-4s", f.State), f.State, colour), f.Name, f.Found, took)
	if f.Do != "" {
		fmt.Fprintf(w, "%24s  -> %s\n", "", f.Do)
	}
}

// coloured reports whether w is a terminal whose user has nothing against colours.
func coloured(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && drawable(w)
}

// painted puts a terminal's colours around text.
func painted(text string, s doctor.State, colour bool) string {
	codes := map[doctor.State]string{doctor.OK: "32", doctor.Warn: "33", doctor.Fail: "31", doctor.Skip: "2"}
	if !colour {
		return text
	}
	return "\x1b[" + codes[s] + "m" + text + "\x1b[0m"
}

// told reports whether err was shown already.
func told(err error) bool {
	var e examined
	return errors.As(err, &e)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client/service"
)

func (p program) service() *cli.Command {
	return &cli.Command{
		Name:      "service",
		Usage:     "run postern up in the background",
		UsageText: "postern service install [--no-start] [--print] | uninstall | start | stop | status",
		Description: `Has postern up run from login on: as a unit of your own systemd, an agent of
launchd's on macOS, or a service on Windows (which takes an administrator, starts
with the machine and uses the identity of whoever installs it).

   $ postern service install
   $ postern service status
   $ postern service install --print   shows what would be written, and writes nothing

On Linux, loginctl enable-linger keeps it running while you are not logged in.`,
		Subcommands: []*cli.Command{
			{
				Name: "install", Usage: "define it, and start it",
				UsageText: "postern service install [--no-start] [--print]",
				Description: `Writes the unit, the agent or the service, and starts it. What runs is
postern up, with the identity in use now.

   $ postern service install
   $ postern service install --print`,
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "no-start", Usage: "write it down and start nothing"},
					&cli.BoolFlag{Name: "print", Usage: "show what would be written"},
				},
				Action: p.installService,
			},
			p.serviceOrder("uninstall", "stop it and take it away", service.Uninstall, "the service is gone"),
			p.serviceOrder("start", "start it", service.Start, "the service is started"),
			p.serviceOrder("stop", "stop it until the next login", service.Stop, "the service is stopped"),
			{
				Name: "status", Usage: "show what the service manager says of it",
				UsageText: "postern service status", Description: "   $ postern service status",
				Action: p.serviceStatus,
			},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("service: no such order: %s", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func (p program) serviceOrder(name, usage string, do func(context.Context) error, done string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, UsageText: "postern service " + name,
		Description: "   $ postern service " + name,
		Action: func(c *cli.Context) error {
			if err := none(c); err != nil {
				return err
			}
			if err := do(c.Context); err != nil {
				return p.serviceError(err)
			}
			p.sayf("%s", done)
			return nil
		},
	}
}

func (p program) serviceError(err error) error {
	if errors.Is(err, service.ErrNotInstalled) {
		return fmt.Errorf("%w: postern service install", err)
	}
	return err
}

func (p program) installService(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	d, err := serviceDefinition(c)
	if err != nil {
		return err
	}
	path, text, err := service.Text(d)
	if err != nil {
		return err
	}
	if c.Bool("print") {
		_, err := fmt.Fprint(p.out, text)
		return err
	}
	if err := service.Install(c.Context, d, !c.Bool("no-start")); err != nil {
		return err
	}
	p.sayf("installed: %s", path)
	if c.Bool("no-start") {
		p.hintf("postern service start")
	} else {
		p.hintf("postern status shows what is up")
	}
	return nil
}

// serviceDefinition is `postern up` with the identity of this command line.
func serviceDefinition(c *cli.Context) (service.Definition, error) {
	self, err := os.Executable()
	if err != nil {
		return service.Definition{}, fmt.Errorf("find this program: %w", err)
	}
	path, err := folder(c)
	if err != nil {
		return service.Definition{}, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return service.Definition{}, fmt.Errorf("find this device's identity: %w", err)
	}
	return service.Definition{Program: self, Args: []string{"--identity", path, "up"}}, nil
}

func (p program) serviceStatus(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	text, err := service.Status(c.Context)
	if err != nil {
		return p.serviceError(err)
	}
	_, err = fmt.Fprintln(p.out, strings.TrimSpace(text))
	return err
}

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/cmdline"
	"github.com/postern-sdp/postern/internal/version"
)

// streams are the standard ones of one run.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run runs the command line to its end and returns its exit code.
func run(ctx context.Context, args []string, s streams) int {
	if cmdline.Unanswerable(args) {
		return exitOK
	}
	app := newApp(s)
	return explain(s.err, app.RunContext(ctx, cmdline.Reorder(app, args)))
}

const (
	flagConfig = "config"
	flagSocket = "socket"
	flagJSON   = "json"
)

func newApp(s streams) *cli.App {
	return &cli.App{
		Name:      program,
		Usage:     "decides who reaches which service, and opens the door",
		UsageText: "postern-controller [--config FILE] COMMAND",
		Description: `The controller takes knocks on one UDP port, judges them by policy and orders the doors
from the host agents. Make one with init, run it with serve; all other commands ask
the running one over its unix socket.

Examples:
  $ postern-controller init --name gate.example
  $ postern-controller serve
  $ postern-controller token create --role host --name web
  $ postern-controller service add ssh --host web --target 127.0.0.1:22
  $ postern-controller grant add ana ssh --for 4h

Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 rights are
missing, 4 the controller is not running or cannot do it now, 5 there is no such thing,
6 it exists already or is in use.`,
		Version:              version.Version,
		HideVersion:          true,
		EnableBashCompletion: true,
		Reader:               s.in,
		Writer:               s.out,
		ErrWriter:            s.err,
		ExitErrHandler:       func(*cli.Context, error) {}, // run alone decides
		OnUsageError:         asUsage,
		Action:               group,
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: flagConfig, Aliases: []string{"c"}, Value: controller.DefaultConfig,
				Usage: "read the configuration from `FILE`", EnvVars: []string{"POSTERN_CONTROLLER_CONFIG"},
			},
			&cli.StringFlag{
				Name:  flagSocket,
				Usage: "ask the controller at the unix socket `PATH` (default: the configuration's)",
			},
		},
		Commands: []*cli.Command{
			initCommand(), serveCommand(), statusCommand(), tokenCommand(), deviceCommand(), hostCommand(),
			serviceCommand(), grantCommand(), sessionCommand(), emergencyCommand(), policyCommand(),
			firewallCommand(), completionCommand(s.out), versionCommand(), manCommand(s),
		},
	}
}

// group is the action of a command that has only subcommands.
func group(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("there is no command %q here", c.Args().First())
	}
	return cli.ShowSubcommandHelp(c)
}

func asUsage(_ *cli.Context, err error, _ bool) error { return usageError{err} }

// arguments returns the command's arguments, exactly as many as names are given.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	if c.NArg() < len(names) {
		return nil, usagef("%s is missing", names[c.NArg()])
	}
	if c.NArg() > len(names) {
		return nil, usagef("%q is one argument too many", c.Args().Get(len(names)))
	}
	return c.Args().Slice(), nil
}

// admin returns the client of the running controller's socket.
func admin(c *cli.Context) (*api.Admin, error) {
	if path := c.String(flagSocket); path != "" {
		return api.NewAdmin(path), nil
	}
	config, err := controller.LoadConfig(c.String(flagConfig))
	if errors.Is(err, fs.ErrNotExist) && !c.IsSet(flagConfig) {
		return api.NewAdmin(controller.DefaultSocket), nil
	}
	if err != nil {
		return nil, configError{err}
	}
	return api.NewAdmin(config.AdminSocket), nil
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: flagJSON, Usage: "write JSON, for programs"}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/profile"
	"github.com/postern-sdp/postern/internal/cmdline"
	"github.com/postern-sdp/postern/internal/version"
)

// Exit codes. They are documented in the help, and scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1   // something went wrong
	exitUsage       = 2   // a wrong command line
	exitDenied      = 3   // the controller or the host said no
	exitNoAnswer    = 4   // nobody answered
	exitNotEnrolled = 5   // this device has no identity
	exitEnded       = 6   // the session was revoked or has expired
	exitUnreachable = 7   // the host is offline, or does not reach the service
	exitInterrupted = 130 // Ctrl-C
	exitTerminated  = 143 // SIGTERM
)

// program is the command with its surroundings, so that tests can run it.
type program struct {
	in        io.Reader
	out, talk io.Writer
	// spawn starts this program once more, in the background, and waits until it is
	// ready; nil: that is not possible.
	spawn func(ctx context.Context, args ...string) error
}

// usageError is a wrong command line.
type usageError struct{ error }

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal os.Signal }

// Error implements error.
func (i interrupted) Error() string { return "ended by signal: " + i.signal.String() }

// main runs one command line and returns the exit code.
func (p program) main(ctx context.Context, args []string) int {
	app := p.app()
	if p.complete(args) {
		return exitOK
	}
	args = cmdline.Reorder(app, args)
	err := app.RunContext(ctx, args)
	if err == nil {
		return exitOK
	}
	if ended := commandEnded(0); errors.As(err, &ended) { // whatever ended it
		return int(ended)
	}
	if cause := (interrupted{}); errors.As(context.Cause(ctx), &cause) {
		return exitCode(cause)
	}
	switch {
	case told(err):
	case cmdline.Given(app, args, "json"):
		_ = p.complainJSON(err) // there is nobody else to tell
	default:
		p.complain(err)
	}
	return exitCode(err)
}

const description = `A protected server answers nobody. This command sends it one packet that only
an enrolled device can make; the door that opens lets in this device only, to one
service, for a while.

   $ postern enroll @join-token
   $ postern services
   $ postern ssh me@web
   $ postern connect db --listen 127.0.0.1:5432

With --json, data is JSON on standard output; an error is one line of JSON on standard
error, the last one: its message, its code, a kind (usage, denied, no-answer,
not-enrolled, ended, unreachable or failed) and hints.

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 denied, 4 nobody answered,
5 not enrolled, 6 the session was revoked or has expired, 7 the service's host is
offline or does not reach the service, 130 and 143 ended by Ctrl-C and SIGTERM.`

func (p program) app() *cli.App {
	app := &cli.App{
		Name:                 "postern",
		Usage:                "reach services that Postern protects",
		UsageText:            "postern [--profile NAME] COMMAND [OPTION]...",
		Description:          description,
		HideVersion:          true, // there is a command for it
		Version:              version.Version,
		Reader:               p.in,
		Writer:               p.out,
		ErrWriter:            p.talk,
		EnableBashCompletion: true,
		// An address may have a comma in a zone's name; each has an option of its own.
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // main does it
		Flags: []cli.Flag{
			&cli.PathFlag{
				Name: "identity", EnvVars: []string{"POSTERN_IDENTITY"}, TakesFile: true,
				Usage: "`FOLDER` of this device's identity, whatever profile is in use",
			},
			profileFlag(),
			&cli.DurationFlag{
				Name: "timeout", Value: 5 * time.Second,
				Usage: "how long a knock waits for its answer",
			},
		},
		Commands: p.commands(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("no such command: %s", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	app.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	usageErrors(app.Commands, app.OnUsageError)
	return app
}

// usageErrors lets commands and their subcommands make wrong options a usageError.
func usageErrors(commands []*cli.Command, make cli.OnUsageErrorFunc) {
	for _, c := range commands {
		c.OnUsageError = make
		usageErrors(c.Subcommands, make)
	}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func (p program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func folder(c *cli.Context) (string, error) {
	path, _, err := chosen(c)
	return path, err
}

func open(c *cli.Context) (*client.Client, error) {
	path, err := folder(c)
	if err != nil {
		return nil, err
	}
	return client.Open(path, client.WithTimeout(c.Duration("timeout")))
}

// only returns the command's one argument.
func only(c *cli.Context, what string) (string, error) {
	switch c.NArg() {
	case 0:
		return "", usagef("%s: %s is missing", c.Command.Name, what)
	case 1:
		return c.Args().First(), nil
	}
	return "", usagef("%s: one %s, please, not %d", c.Command.Name, what, c.NArg())
}

func none(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("%s: takes no argument, got %q", c.Command.Name, c.Args().First())
	}
	return nil
}

func exitCode(err error) int {
	var usage usageError
	var signal interrupted
	switch {
	case errors.As(err, &signal) && signal.signal == syscall.SIGTERM:
		return exitTerminated
	case errors.As(err, &signal):
		return exitInterrupted
	case errors.As(err, &usage), errors.Is(err, client.ErrPublicListen), errors.Is(err, profile.ErrName):
		return exitUsage
	case client.IsDenied(err):
		return exitDenied
	case errors.Is(err, client.ErrNotEnrolled):
		return exitNotEnrolled
	case errors.Is(err, client.ErrRevoked), errors.Is(err, client.ErrExpired):
		return exitEnded
	case client.IsHostOffline(err), errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, client.ErrNoAnswer), errors.Is(err, client.ErrNoAddress),
		errors.Is(err, client.ErrNoControl), errors.Is(err, client.ErrHostSilent),
		errors.Is(err, client.ErrTokenOver), errors.Is(err, client.ErrStillShut):
		return exitNoAnswer
	}
	return exitFailed
}

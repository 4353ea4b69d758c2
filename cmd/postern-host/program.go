package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/cmdline"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/version"
)

// How this program talks:
//   - standard output is data: what a command was asked for, and nothing else;
//   - standard error is talk: "postern-host: " and one sentence, lower case,
//     no full stop; "hint: " lines say what to do next; serve logs there too;
//   - a secret is never written to either.

// Exit codes.
const (
	exitOK         = 0
	exitFailed     = 1 // what was asked for went wrong
	exitUsage      = 2 // a wrong command line or configuration; nothing was touched
	exitRights     = 3 // a capability is missing
	exitNotEnroled = 4 // the machine is not enrolled
	exitNotRunning = 5 // no agent runs here
)

// program is the command with its surroundings, so that tests can run it.
type program struct {
	in   io.Reader
	out  io.Writer
	talk io.Writer
}

// usageError is a wrong command line or configuration.
type usageError struct{ error }

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }

// hintError is an error with a next step.
type hintError struct {
	error
	hint string
}

// Unwrap returns the error without the hint.
func (e hintError) Unwrap() error { return e.error }

func (p program) run(ctx context.Context, args []string) error {
	if cmdline.Unanswerable(args) {
		return nil
	}
	app := p.app()
	return app.RunContext(ctx, cmdline.Reorder(app, args))
}

func (p program) app() *cli.App {
	app := &cli.App{
		Name:                 "postern-host",
		Usage:                "the agent on a machine that Postern protects",
		UsageText:            "postern-host COMMAND [OPTION]...",
		Description:          description,
		Version:              version.Version,
		HideVersion:          true, // there is a command for it
		Reader:               p.in,
		Writer:               p.out,
		ErrWriter:            p.talk,
		EnableBashCompletion: true,
		ExitErrHandler:       func(*cli.Context, error) {}, // report does it
		Commands: []*cli.Command{
			p.enroll(), p.protect(), p.confirm(), p.unprotect(), p.serve(), p.status(), p.doctor(), p.emergency(),
			p.firewall(), p.version(), p.completion(), p.man(),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("no such command: %s", c.Args().First())}
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	}
	app.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	return app
}

const description = `A protected machine answers nobody. This agent dials out to the controller and
opens one UDP port to one client, for one service, for as long as the
controller's order says; the kernel shuts it by itself.

Four steps on a new machine:

   $ postern-host enroll @/root/join-token
   $ postern-host serve
   $ postern-host protect
   $ postern-host confirm

Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 a
capability is missing, 4 not enrolled, 5 no agent is running.`

// report writes an error and returns the exit code.
func (p program) report(err error) int {
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.talk, "postern-host: %s\n", strings.TrimRight(line, "\n"))
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(p.talk, "hint: %s\n", hint)
	}
	return exitCode(err)
}

func hintFor(err error) string {
	var own hintError
	var rights *host.RightsError
	var usage usageError
	switch {
	case errors.As(err, &own):
		return own.hint
	case errors.As(err, &rights):
		return rights.Hint()
	case errors.As(err, &usage):
		return "postern-host COMMAND --help shows what there is"
	}
	return ""
}

func exitCode(err error) int {
	var rights *host.RightsError
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &rights), isMissingRight(err):
		return exitRights
	case errors.Is(err, control.ErrNotEnrolled):
		return exitNotEnroled
	case errors.Is(err, host.ErrNotRunning):
		return exitNotRunning
	}
	return exitFailed
}

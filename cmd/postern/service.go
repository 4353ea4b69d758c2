package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client/service"
	"github.com/postern-sdp/postern/internal/cmdline"
)

const (
	maxLog     = 1 << 20         // bytes: a larger log of an earlier run is begun anew
	againAfter = 5 * time.Second // pause before what failed in the background is tried again
)

func (p program) service() *cli.Command {
	c := &cli.Command{
		Name:      "service",
		Usage:     "keep your services reachable in the background, from login on",
		UsageText: "postern service install|uninstall|start|stop|status",
		Description: `Runs postern up in the background for you alone: a unit of systemd's user manager
on Linux, a launchd agent on macOS, a task at logon on Windows. No administrator is
needed.

   $ postern service install
   $ postern service status
   $ postern service uninstall`,
		Subcommands: []*cli.Command{
			p.serviceInstall(), p.serviceUninstall(), p.serviceStart(), p.serviceStop(),
			p.serviceStatus(), p.serviceRun(),
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usagef("service: what? install, uninstall, start, stop or status")
			}
			return usagef("service: no such command: %q", c.Args().First())
		},
	}
	for _, sub := range c.Subcommands {
		sub.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	}
	return c
}

func (p program) serviceInstall() *cli.Command {
	return &cli.Command{
		Name:      "install",
		Usage:     "start postern up now, and at each login",
		UsageText: "postern service install [--print] [--json] [-- OPTION OF up...]",
		Description: `An older installation is replaced, and started anew. What follows -- is given to
postern up; --identity, --profile and --timeout before "service" are kept too.

--print shows the file that would be written, and installs nothing.

   $ postern service install
   $ postern service install --print`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "print", Usage: "print the file, install nothing"},
			jsonFlag(),
		},
		Action: p.runServiceInstall,
	}
}

func (p program) runServiceInstall(c *cli.Context) error {
	s, err := service.ForUser()
	if err != nil {
		return err
	}
	spec, err := backgroundSpec(c)
	if err != nil {
		return err
	}
	if c.Bool("print") {
		text, err := s.Text(spec)
		switch {
		case err != nil:
		case c.Bool("json"):
			err = p.printJSON(map[string]string{"text": text})
		default:
			_, err = fmt.Fprint(p.out, text)
		}
		return err
	}
	if spec.Log != "" {
		if err := os.MkdirAll(filepath.Dir(spec.Log), 0o700); err != nil {
			return fmt.Errorf("make the log's folder: %w", err)
		}
	}
	if err := s.Install(c.Context, spec); err != nil {
		return err
	}
	return p.tellService(c, s)
}

// backgroundSpec is postern up with this command line's options.
func backgroundSpec(c *cli.Context) (service.Spec, error) {
	self, err := os.Executable()
	if err != nil {
		return service.Spec{}, fmt.Errorf("find this program: %w", err)
	}
	var options []string
	if path := c.Path("identity"); path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return service.Spec{}, fmt.Errorf("find the identity: %w", err)
		}
		options = append(options, "--identity", path)
	} else if name := c.String("profile"); name != "" {
		options = append(options, "--profile", name)
	}
	if c.IsSet("timeout") {
		options = append(options, "--timeout", c.Duration("timeout").String())
	}
	up := append([]string{"up"}, c.Args().Slice()...)
	log, err := backgroundLog()
	if err != nil {
		return service.Spec{}, err
	}
	if runtime.GOOS == "windows" { // its scheduler keeps no output, and opens a window for it
		options = append(options, "service", "run", "--log", log, "--")
	}
	return service.Spec{Program: self, Args: append(options, up...), Log: log}, nil
}

// backgroundLog is where the background service's output goes, "" for the journal.
func backgroundLog() (string, error) {
	switch runtime.GOOS {
	case "darwin":
		home, err := os.UserHomeDir()
		return filepath.Join(home, "Library", "Logs", "postern.log"), err
	case "windows":
		local, err := os.UserCacheDir()
		return filepath.Join(local, "postern", "up.log"), err
	}
	return "", nil
}

// simple is a subcommand without options of its own but --json.
func (p program) simple(name, usage string, do func(*service.Service, context.Context) error) *cli.Command {
	return &cli.Command{
		Name:        name,
		Usage:       usage,
		UsageText:   "postern service " + name + " [--json]",
		Description: "   $ postern service " + name,
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := none(c); err != nil {
				return err
			}
			s, err := service.ForUser()
			if err != nil {
				return err
			}
			if err := do(s, c.Context); errors.Is(err, service.ErrNotInstalled) {
				return hinted{err, "postern service install"}
			} else if err != nil {
				return err
			}
			return p.tellService(c, s)
		},
	}
}

func (p program) serviceUninstall() *cli.Command {
	return p.simple("uninstall", "stop it and remove it", (*service.Service).Uninstall)
}

func (p program) serviceStart() *cli.Command {
	return p.simple("start", "start it", (*service.Service).Start)
}

func (p program) serviceStop() *cli.Command {
	return p.simple("stop", "stop it until the next login", (*service.Service).Stop)
}

func (p program) serviceStatus() *cli.Command {
	return p.simple("status", "say whether it is installed, and runs",
		func(*service.Service, context.Context) error { return nil })
}

// tellService prints what the system's manager says of the service.
func (p program) tellService(c *cli.Context, s *service.Service) error {
	state, err := s.Status(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(state)
	}
	switch {
	case !state.Installed:
		_, err = fmt.Fprintln(p.out, "not installed")
	case state.Running:
		_, err = fmt.Fprintf(p.out, "running (%s: %s)\n", state.Manager, state.Name)
	default:
		_, err = fmt.Fprintf(p.out, "installed, not running (%s: %s)\n", state.Manager, state.Name)
	}
	return err
}

// hinted is an error with the command that mends it.
type hinted struct {
	error
	command string
}

// Unwrap returns the error.
func (h hinted) Unwrap() error { return h.error }

// serviceRun is what the task of Windows starts.
func (p program) serviceRun() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command without a window, with its output in a file",
		UsageText: "postern service run --log FILE -- COMMAND [OPTION]...",
		Hidden:    true,
		Flags:     []cli.Flag{&cli.PathFlag{Name: "log", Required: true, Usage: "`FILE` that output is appended to"}},
		Action:    p.runServiceRun,
	}
}

// runServiceRun runs the command until it ends as it should, or cannot be run at all.
func (p program) runServiceRun(c *cli.Context) error {
	log, err := openLog(c.Path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	leaveConsole()
	quiet := program{in: p.in, out: log, talk: log}
	args := []string{"postern"}
	if path := c.Path("identity"); path != "" {
		args = append(args, "--identity", path)
	}
	if name := c.String("profile"); name != "" {
		args = append(args, "--profile", name)
	}
	args = append(args, "--timeout", c.Duration("timeout").String())
	args = append(args, c.Args().Slice()...)
	for {
		app := quiet.app()
		err := app.RunContext(c.Context, cmdline.Reorder(app, args))
		if err == nil || c.Context.Err() != nil {
			return err
		}
		quiet.complain(err)
		if code := exitCode(err); code == exitUsage || code == exitNotEnrolled {
			return err
		}
		select {
		case <-c.Context.Done():
			return context.Cause(c.Context)
		case <-time.After(againAfter):
		}
	}
}

func openLog(path string) (*os.File, error) {
	mode := os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		mode = os.O_TRUNC
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|mode, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client/proxy"
	"github.com/postern-sdp/postern/internal/cmdline"
)

// Exit codes of exec beside the command's own; a shell has the same ones.
const (
	exitCannotRun = 126
	exitNotFound  = 127
	exitBySignal  = 128 // and the signal's number
)

// commandEnded is the exit code of a command that was run, which becomes our own. All
// that there is to say was said.
type commandEnded int

// Error implements error.
func (e commandEnded) Error() string { return fmt.Sprintf("the command ended with code %d", int(e)) }

func (p program) exec() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command that reaches services through a proxy of its own",
		ArgsUsage: cmdline.CommandLine,
		UsageText: "postern exec [--others direct|refuse] [--for DURATION] [--] COMMAND [ARGUMENT]...\n" +
			"postern exec --env-only [--json]",
		Description: `Runs a command with the usual variables for a proxy in its environment (ALL_PROXY,
HTTP_PROXY, HTTPS_PROXY, in both cases of letters, and NO_PROXY for this machine), and
ends with its exit code; 126 and 127 say that it could not be run. The proxy is as
that of "postern proxy", on a free port, with a random password that only the
command gets, and ends with it. Hosts that are no services are dialled directly.

   $ postern exec -- curl http://wiki.postern.internal:8080/
   $ postern exec -- pip install --index-url http://pypi.postern.internal:3141/ thing

ssh knows no proxy variables: it has postern connect --stdio as its ProxyCommand.

With --env-only the variables are printed for a shell, password and all, and the
proxy stays until Ctrl-C.`,
		Flags: []cli.Flag{
			othersFlag("direct"),
			&cli.BoolFlag{Name: "env-only", Usage: "print the variables, and serve until Ctrl-C"},
			forFlag(),
			jsonFlag(),
		},
		Action: p.runExec,
	}
}

func (p program) runExec(c *cli.Context) error {
	envOnly, args := c.Bool("env-only"), c.Args().Slice()
	switch {
	case !envOnly && c.Bool("json"):
		return usagef("exec: --json goes with --env-only")
	case envOnly && len(args) > 0:
		return usagef("exec: --env-only runs no command, got %q", args[0])
	case !envOnly && len(args) == 0:
		return usagef("exec: the command is missing")
	}
	password := proxy.RandomPassword()
	if envOnly {
		return p.offerProxy(c, password, func(at net.Addr) error { return p.printEnv(c.Bool("json"), proxyEnv(at, password)) })
	}
	path, err := exec.LookPath(args[0])
	if err != nil { // before anything is begun
		return p.cannotRun(args[0], err)
	}
	l, config, end, err := p.openProxy(c, password)
	if err != nil {
		return err
	}
	defer end()
	// A signal ends the command, and the command's end the proxy.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context))
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() {
		if err := proxy.Serve(ctx, l, config); err != nil {
			p.complain(err)
		}
	})
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.talk
	cmd.Env = os.Environ()
	for _, v := range proxyEnv(l.Addr(), password) {
		cmd.Env = append(cmd.Env, v[0]+"="+v[1])
	}
	return p.runCommand(c.Context, cmd)
}

// runCommand runs a command to its end, with the signals that we get. ctx is of before
// its beginning only.
func (p program) runCommand(ctx context.Context, cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedSignals()...)
	defer signal.Stop(signals)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		return p.cannotRun(cmd.Args[0], err)
	}
	ended := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case s := <-signals:
				passSignal(cmd.Process, s)
			case <-ended:
				return
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	passing.Wait()
	if cmd.ProcessState == nil {
		return fmt.Errorf("wait for %s: %w", cmd.Args[0], err)
	}
	if code := exitStatus(cmd.ProcessState); code != exitOK {
		return commandEnded(code)
	}
	return nil
}

func (p program) cannotRun(name string, err error) error {
	code := exitCannotRun
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	var inner *exec.Error
	if errors.As(err, &inner) {
		err = inner.Err // without the name once more
	}
	p.sayf("run %s: %v", name, err)
	return commandEnded(code)
}

// proxyEnv are the variables by which programs find a proxy, in pairs.
func proxyEnv(at net.Addr, password proxy.Password) [][2]string {
	to := func(scheme string) string {
		u := url.URL{Scheme: scheme, User: password.Reveal(), Host: at.String()}
		return u.String()
	}
	const here = "localhost,127.0.0.1,::1"
	var all [][2]string
	for _, v := range [][2]string{
		{"ALL_PROXY", to("socks5h")}, {"HTTP_PROXY", to("http")}, {"HTTPS_PROXY", to("http")}, {"NO_PROXY", here},
	} {
		all = append(all, v, [2]string{strings.ToLower(v[0]), v[1]})
	}
	return append(all, [2]string{"POSTERN_PROXY", to("http")})
}

func (p program) printEnv(asJSON bool, env [][2]string) error {
	if asJSON {
		values := make(map[string]string)
		for _, v := range env {
			values[v[0]] = v[1]
		}
		return p.printJSON(values)
	}
	for _, v := range env {
		if _, err := fmt.Fprintf(p.out, "export %s='%s'\n", v[0], v[1]); err != nil {
			return err
		}
	}
	return nil
}

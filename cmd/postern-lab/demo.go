package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/test/lab"
)

// result is one line of the closing table.
type result struct {
	name string
	took time.Duration
	err  error
}

func demo(c *cli.Context) error {
	return show(c, "building the network: stranger, client, neighbour, roamer, controller, host",
		func(context.Context, *lab.Lab) ([]lab.Step, func() (string, error), error) {
			return lab.Steps(), func() (string, error) { return "", nil }, nil
		})
}

func remote(c *cli.Context) error {
	deb, err := packageOf(c)
	if err != nil {
		return err
	}
	return show(c, "building a remote server: sshd, a web and a name server, ufw, a container's published ports",
		func(ctx context.Context, l *lab.Lab) ([]lab.Step, func() (string, error), error) {
			l.Backend = c.String("backend")
			r, err := lab.NewRemote(ctx, l, deb)
			if err != nil {
				return nil, nil, err
			}
			return r.Steps(), func() (string, error) { return r.Log(), r.Close() }, nil
		})
}

// packageOf is the .deb that the command line names, or the newest that was built here.
func packageOf(c *cli.Context) (string, error) {
	if deb := c.String("package"); deb != "" {
		return deb, nil
	}
	built, err := filepath.Glob(filepath.Join("dist", "postern-host_*_"+runtime.GOARCH+".deb"))
	if err != nil || len(built) == 0 {
		return "", errors.New("no dist/postern-host_*.deb here: run `make packages`, or name a file with --package")
	}
	age := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	return slices.MaxFunc(built, func(a, b string) int { return age(a).Compare(age(b)) }), nil
}

func gateway(c *cli.Context) error {
	return show(c, "building a host that forwards to an inner network, and a machine on that",
		func(ctx context.Context, l *lab.Lab) ([]lab.Step, func() (string, error), error) {
			l.Backend = c.String("backend")
			g, err := lab.NewGateway(ctx, l)
			if err != nil {
				return nil, nil, err
			}
			return g.Steps(), func() (string, error) { return g.Log(), g.Close() }, nil
		})
}

func everyday(c *cli.Context) error {
	return show(c, "building a host with sshd, git, PostgreSQL, nginx, dnsmasq and a client with their programs",
		func(ctx context.Context, l *lab.Lab) ([]lab.Step, func() (string, error), error) {
			e, err := lab.NewEveryday(ctx, l)
			if err != nil {
				return nil, nil, err
			}
			return e.Steps(), func() (string, error) { return "", e.Close() }, nil
		})
}

// show stands up a lab and shows the steps that prepare returns, with their
// evidence. What prepare returns beside them is called at the end; it returns
// a log to be printed.
func show(c *cli.Context, title string,
	prepare func(context.Context, *lab.Lab) ([]lab.Step, func() (string, error), error)) (err error) {
	l, err := labOf(c, true)
	if err != nil {
		return err
	}
	out := c.App.Writer
	fmt.Fprintln(out, title)
	if err := lab.Up(l); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	steps, finish, err := prepare(c.Context, l)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.Logs())
	}
	results, err := runSteps(c, l, steps)
	log, closeErr := finish()
	if log != "" {
		fmt.Fprintf(out, "\nwhat the probes met\n%s\n", log)
	}
	if err := errors.Join(err, closeErr); err != nil {
		return err
	}
	return sum(out, results)
}

// runSteps shows each step; it ends early when the first ones do not hold, since
// there is nothing to show things on then.
func runSteps(c *cli.Context, l *lab.Lab, steps []lab.Step) ([]result, error) {
	out := c.App.Writer
	var results []result
	for i, s := range steps {
		if err := c.Context.Err(); err != nil {
			return results, fmt.Errorf("interrupted: %w", err)
		}
		fmt.Fprintf(out, "\n%2d. %s\n", i+1, s.Name)
		start := time.Now()
		evidence, err := s.Run(c.Context, l)
		results = append(results, result{s.Name, time.Since(start), err})
		for line := range strings.Lines(strings.TrimSpace(evidence)) {
			fmt.Fprintf(out, "    %s\n", strings.TrimRight(line, "\n"))
		}
		if err != nil {
			fmt.Fprintf(out, "    NOT SO: %v\n%s\n", err, l.Logs())
		}
		if err != nil && i < 2 {
			break
		}
	}
	return results, nil
}

// sum prints the closing table; its error says how many promises do not hold.
func sum(out io.Writer, results []result) error {
	failed := 0
	fmt.Fprintf(out, "\n%-68s %-5s %6s\n", "shown", "holds", "took")
	for _, r := range results {
		mark := "yes"
		if r.err != nil {
			mark = "NO"
			failed++
		}
		fmt.Fprintf(out, "%-68s %-5s %6s\n", r.name, mark, r.took.Round(10*time.Millisecond))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d promises do not hold", failed, len(results))
	}
	return nil
}

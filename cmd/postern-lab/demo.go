package main

import (
	"errors"
	"fmt"
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

func demo(c *cli.Context) (err error) {
	l, err := labOf(c, true)
	if err != nil {
		return err
	}
	out := c.App.Writer
	fmt.Fprintln(out, "building the network: stranger, client, neighbour, roamer, controller, host")
	if err := lab.Up(l); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	var results []result
	failed := 0
	for i, s := range lab.Steps() {
		if err := c.Context.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		fmt.Fprintf(out, "\n%2d. %s\n", i+1, s.Name)
		start := time.Now()
		evidence, err := s.Run(c.Context, l)
		results = append(results, result{s.Name, time.Since(start), err})
		if evidence != "" {
			fmt.Fprintf(out, "    %s\n", evidence)
		}
		if err != nil {
			failed++
			fmt.Fprintf(out, "    NOT SO: %v\n%s\n", err, l.Logs())
		}
		if err != nil && i < 2 { // nothing to show things on
			break
		}
	}
	fmt.Fprintln(out, "\nshown                                                            holds   took")
	for _, r := range results {
		mark := "yes"
		if r.err != nil {
			mark = "NO"
		}
		fmt.Fprintf(out, "%-64s %-5s %6s\n", r.name, mark, r.took.Round(10*time.Millisecond))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d promises do not hold", failed, len(results))
	}
	return nil
}

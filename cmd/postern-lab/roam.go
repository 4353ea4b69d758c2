package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/test/lab"
)

// tally is what one kind of change did, all times it was made.
type tally struct {
	change lab.Change
	held   int
	stalls []time.Duration // of the transfers that lived
	backs  []time.Duration // until the next one ran, after those that broke
}

func roam(c *cli.Context) (err error) {
	l, err := labOf(c, true)
	if err != nil {
		return err
	}
	out := c.App.Writer
	fmt.Fprintf(out, "building the network, with a round trip of %s to the host\n", c.Duration("rtt"))
	if err := lab.Up(l); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	r, err := lab.NewRoam(c.Context, l, c.Duration("rtt"))
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.Logs())
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	r.Sleep = c.Duration("sleep")
	var tallies []*tally
	for _, change := range r.Changes() {
		if !strings.Contains(change.Name, c.String("only")) {
			continue
		}
		tallies = append(tallies, &tally{change: change})
	}
	if len(tallies) == 0 {
		return fmt.Errorf("no change's name has %q in it", c.String("only"))
	}
	for round := range c.Int("times") {
		for _, t := range tallies {
			o, err := r.Try(c.Context, t.change)
			if c.Context.Err() != nil {
				return fmt.Errorf("interrupted: %w", c.Context.Err())
			}
			mark := "holds"
			if err != nil {
				mark = "NOT SO"
			} else {
				t.held++
			}
			if o.Broke == nil {
				t.stalls = append(t.stalls, o.Stall())
			} else if o.Back > 0 {
				t.backs = append(t.backs, o.Back)
			}
			fmt.Fprintf(out, "%3d. %-6s %s: %s\n", round+1, mark, t.change.Name, o)
			if err != nil {
				fmt.Fprintf(out, "            %v\n", err)
			}
		}
	}
	return roamTable(out, tallies, c.Int("times"))
}

// roamTable prints the figures; its error says how often a promise did not hold.
func roamTable(out io.Writer, tallies []*tally, times int) error {
	fmt.Fprintf(out, "\n%-58s %-7s %-28s %s\n", "", "holds", "stall: median, 95 %, longest", "broke: times, back after")
	failed := 0
	for _, t := range tallies {
		failed += times - t.held
		broke := ""
		if n := len(t.backs); n > 0 {
			broke = fmt.Sprintf("%d×, %s", n, quantiles(t.backs))
		}
		fmt.Fprintf(out, "%-58s %3d/%-3d %-28s %s\n", t.change.Name, t.held, times, quantiles(t.stalls), broke)
	}
	if failed > 0 {
		return fmt.Errorf("%d times a promise did not hold", failed)
	}
	return nil
}

// quantiles are the median, the 95th percentile and the maximum.
func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	all = slices.Sorted(slices.Values(all))
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100].Round(time.Millisecond) }
	return fmt.Sprintf("%s, %s, %s", at(50), at(95), at(100))
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/postern-sdp/postern/client"
)

const (
	// shortestInterval keeps watching from being a load.
	shortestInterval = 100 * time.Millisecond
	// askAgain is how often a watch asks the controller.
	askAgain = 30 * time.Second
)

// What a terminal understands.
const (
	clearScreen = "\x1b[2J"
	goHome      = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// watch shows the status again and again. A controller that does not answer is
// shown as that.
func (p program) watch(c *cli.Context, device *client.Client) error {
	interval := c.Duration("interval")
	if interval < shortestInterval {
		return usagef("status: --interval %s is shorter than %s", interval, shortestInterval)
	}
	show := p.drawing(c.Bool("json"))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last statusJSON
	var asked time.Time
	for {
		ask := !c.Bool("local") && time.Since(asked) >= askAgain
		status, _ := look(c.Context, device, ask)
		if c.Context.Err() != nil {
			return nil
		}
		if ask {
			last, asked = status, time.Now()
		}
		status.Sessions, status.Answers = last.Sessions, last.Answers
		_, status.Profile, _ = chosen(c)
		if err := show(status); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-tick.C:
		}
	}
}

// drawing returns what shows one look.
func (p program) drawing(asJSON bool) func(statusJSON) error {
	switch {
	case asJSON:
		return func(s statusJSON) error { return json.NewEncoder(p.out).Encode(s) }
	case drawable(p.out):
		fmt.Fprint(p.out, clearScreen)
		return func(s statusJSON) error {
			text, err := picture(s)
			if err != nil {
				return err
			}
			text = strings.ReplaceAll(text, "\n", clearRight+"\n")
			_, err = io.WriteString(p.out, goHome+text+clearBelow)
			return err
		}
	}
	return func(s statusJSON) error {
		text, err := picture(s)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.out, "%s\n", text) // an empty line between two looks
		return err
	}
}

func picture(s statusJSON) (string, error) {
	now := time.Now()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", now.Format(time.DateTime))
	err := printStatus(&b, s, now)
	return b.String(), err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// drawable reports whether w is a terminal that understands escape sequences.
func drawable(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTerminal(f) && takesEscapes(f)
}

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
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/host"
)

// shortestInterval keeps watching from being a load.
const shortestInterval = 100 * time.Millisecond

// What a terminal understands.
const (
	clearScreen = "\x1b[2J"
	goHome      = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// watch shows the status again and again. An agent that does not answer at first is
// an error; one that goes away later is waited for.
func (p program) watch(c *cli.Context, socket string) error {
	interval := c.Duration("interval")
	if interval < shortestInterval {
		return usageError{fmt.Errorf("status: --interval %s is shorter than %s", interval, shortestInterval)}
	}
	show := p.drawing(c.Bool("json"))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for first := true; ; first = false {
		status, err := readStatus(c.Context, socket)
		if c.Context.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		if err := show(status, err); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-tick.C:
		}
	}
}

// drawing returns what shows one look, or why there was none.
func (p program) drawing(asJSON bool) func(host.Status, error) error {
	switch {
	case asJSON:
		return p.drawJSON
	case isTerminal(p.out):
		fmt.Fprint(p.out, clearScreen)
		return func(s host.Status, err error) error {
			text, err := picture(s, err)
			if err != nil {
				return err
			}
			text = strings.ReplaceAll(text, "\n", clearRight+"\n")
			_, err = io.WriteString(p.out, goHome+text+clearBelow)
			return err
		}
	}
	return func(s host.Status, err error) error {
		text, err := picture(s, err)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.out, "%s\n", text) // an empty line between two looks
		return err
	}
}

// drawJSON writes nothing for an agent that is away: who reads it sees documents of
// one form only.
func (p program) drawJSON(s host.Status, err error) error {
	if err != nil {
		fmt.Fprintf(p.talk, "postern-host: %v\n", err)
		return nil
	}
	return json.NewEncoder(p.out).Encode(s)
}

func picture(s host.Status, err error) (string, error) {
	now := time.Now()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", now.Format(time.DateTime))
	if err != nil {
		fmt.Fprintf(&b, "%v; waiting for it\n", err)
		return b.String(), nil
	}
	err = printStatus(&b, s, now)
	return b.String(), err
}

// isTerminal is about what is read from or written to. /dev/null is none.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

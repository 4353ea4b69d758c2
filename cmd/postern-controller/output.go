package main

// What is printed where:
//   - stdout carries data only: tables, or JSON with --json;
//   - stderr carries talk: what was done, errors, hints. Lower case, no full stop;
//   - an empty list prints nothing on stdout without --json, and [] with it.

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
)

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// printList prints items as JSON or as a table with a row each.
func printList[T any](c *cli.Context, items []T, head string, row func(T) []string) error {
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, items)
	}
	if len(items) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(head, " ", "\t"))
	for _, item := range items {
		fmt.Fprintln(w, strings.Join(row(item), "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

// say tells the person at the terminal what was done.
func say(c *cli.Context, format string, args ...any) {
	fmt.Fprintf(c.App.ErrWriter, format+"\n", args...)
}

// sayCut tells what a revocation ended.
func sayCut(c *cli.Context, cut api.Cut, format string, args ...any) error {
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, cut)
	}
	text := fmt.Sprintf(format, args...)
	switch {
	case cut.Sessions == 0:
		say(c, "%s; no session was live", text)
	case cut.Confirmed:
		say(c, "%s; %d sessions ended, confirmed by their hosts", text, cut.Sessions)
	default:
		say(c, "%s; %d sessions ended here, but not every host confirmed: one that is away ends them when "+
			"it is back, or at their deadline", text, cut.Sessions)
	}
	return nil
}

// colours reports whether out is a terminal that wants them.
func colours(out io.Writer) bool {
	f, isFile := out.(*os.File)
	if !isFile || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func span(d control.Duration) string {
	if d == 0 {
		return "default"
	}
	return time.Duration(d).Round(time.Second).String()
}

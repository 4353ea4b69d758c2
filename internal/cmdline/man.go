package cmdline

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// Manual is what a program's manual pages say besides what its commands say themselves.
type Manual struct {
	Section   int     // 1 for everybody's programs, 8 for the administrator's
	Variables []Entry // of the environment, besides those of options
	Files     []Entry
	SeeAlso   []string // pages of other programs, like ssh(1)
}

// Entry is a term and what is to be said about it.
type Entry struct{ Term, Text string }

// Page is one manual page.
type Page struct {
	Name string // of its file, like postern-connect.1
	Text string // roff, with the macros of man(7)
}

// Pages returns the manual of a program: one page of its own, and one for each of
// its commands, with what is below that. Hidden commands and options are left out. date is the
// day that the pages are of.
func (m Manual) Pages(app *cli.App, date time.Time) []Page {
	w := manWriter{Manual: m, app: app, date: date}
	commands := visible(app.Commands)
	pages := []Page{w.page(app.Name, w.program(commands))}
	for _, c := range commands {
		pages = append(pages, w.page(app.Name+"-"+c.Name, w.command(c, commands)))
	}
	return pages
}

// Man is the hidden command that writes the manual. app makes the program anew,
// without what the library adds to it in a run; usage makes the error for a wrong command line.
func Man(app func() *cli.App, m Manual, out io.Writer, usage func(error) error) *cli.Command {
	return &cli.Command{
		Name:      "man",
		Usage:     "write the manual pages",
		UsageText: "PROGRAM man [--dir FOLDER] [COMMAND]",
		Hidden:    true,
		Flags:     []cli.Flag{&cli.PathFlag{Name: "dir", Usage: "write all pages into `FOLDER`"}},
		Action: func(c *cli.Context) error {
			date, err := manualDate()
			if err != nil {
				return usage(err)
			}
			program := app()
			pages := m.Pages(program, date)
			if dir := c.Path("dir"); dir != "" {
				return writePages(pages, dir)
			}
			name := strings.Join(append([]string{program.Name}, c.Args().Slice()...), "-")
			for _, page := range pages {
				if page.Name == fmt.Sprintf("%s.%d", name, m.Section) {
					_, err := io.WriteString(out, page.Text)
					return err
				}
			}
			return usage(fmt.Errorf("man: there is no page for %q", name))
		},
	}
}

// manualDate is SOURCE_DATE_EPOCH, so that one source gives one page, or today.
func manualDate() (time.Time, error) {
	const variable = "SOURCE_DATE_EPOCH"
	text := os.Getenv(variable)
	if text == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("man: %s: %w", variable, err)
	}
	return time.Unix(seconds, 0), nil
}

func writePages(pages []Page, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write manual: %w", err)
	}
	for _, page := range pages {
		if err := os.WriteFile(filepath.Join(dir, page.Name), []byte(page.Text), 0o644); err != nil {
			return fmt.Errorf("write manual: %w", err)
		}
	}
	return nil
}

func visible(commands []*cli.Command) []*cli.Command {
	return slices.DeleteFunc(slices.Clone(commands), func(c *cli.Command) bool { return c.Hidden })
}

// manWriter writes the pages of one program.
type manWriter struct {
	Manual
	app  *cli.App
	date time.Time
}

func (w manWriter) page(name, body string) Page {
	head := fmt.Sprintf(".\\\" Written by %s man. Change the command's help instead.\n"+
		".TH %s %d %s \"%s %s\" \"Postern\"\n.nh\n.ad l\n",
		w.app.Name, strings.ToUpper(name), w.Section, w.date.UTC().Format(time.DateOnly), w.app.Name, w.app.Version)
	return Page{Name: fmt.Sprintf("%s.%d", name, w.Section), Text: head + body}
}

func (w manWriter) program(commands []*cli.Command) string {
	var b strings.Builder
	prose, exits := splitExits(w.app.Description)
	b.WriteString(opening(w.app.Name, w.app.Usage, w.app.UsageText))
	b.WriteString(".SH DESCRIPTION\n" + paragraphs(prose))
	b.WriteString(".SH COMMANDS\nEach has a page of its own.\n")
	for _, c := range commands {
		b.WriteString(item(bold(c.Name), roff(sentence(c.Usage))+"\nSee "+w.reference(w.app.Name+"-"+c.Name)+"."))
	}
	b.WriteString(options("OPTIONS", w.app.Flags))
	b.WriteString(section("EXIT STATUS", exits))
	b.WriteString(section("ENVIRONMENT", append(variables(w.app.Flags), w.Variables...)))
	b.WriteString(section("FILES", w.Files))
	see := slices.Clone(w.SeeAlso)
	for _, c := range commands {
		see = append(see, fmt.Sprintf("%s-%s(%d)", w.app.Name, c.Name, w.Section))
	}
	b.WriteString(seeAlso(see))
	return b.String()
}

func (w manWriter) command(c *cli.Command, all []*cli.Command) string {
	var b strings.Builder
	path := w.app.Name + " " + c.Name
	prose, exits := splitExits(c.Description)
	subcommands := visible(c.Subcommands)
	b.WriteString(opening(w.app.Name+"-"+c.Name, c.Usage, synopses(path, c)))
	b.WriteString(".SH DESCRIPTION\n" + paragraphs(cmp.Or(prose, sentence(c.Usage))))
	if len(subcommands) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range subcommands {
			b.WriteString(w.subcommand(path, sub))
		}
	}
	b.WriteString(options("OPTIONS", c.Flags))
	if len(w.app.Flags) > 0 && !c.SkipFlagParsing {
		b.WriteString(".PP\nThe options of " + w.reference(w.app.Name) + " may stand here too.\n")
	}
	if len(exits) > 0 {
		b.WriteString(section("EXIT STATUS", exits))
	} else {
		b.WriteString(".SH EXIT STATUS\nThat of " + w.reference(w.app.Name) + ".\n")
	}
	b.WriteString(section("ENVIRONMENT", variables(flagsBelow(c))))
	see := []string{fmt.Sprintf("%s(%d)", w.app.Name, w.Section)}
	for _, other := range all {
		if other.Name != c.Name {
			see = append(see, fmt.Sprintf("%s-%s(%d)", w.app.Name, other.Name, w.Section))
		}
	}
	b.WriteString(seeAlso(see))
	return b.String()
}

// subcommand is a part of its command's page, down to the last level.
func (w manWriter) subcommand(path string, c *cli.Command) string {
	var b strings.Builder
	path += " " + c.Name
	prose, exits := splitExits(c.Description)
	b.WriteString(".SS " + quoted(path) + "\n" + synopsis(cmp.Or(c.UsageText, path)) + ".PP\n")
	b.WriteString(roff(sentence(c.Usage)) + "\n")
	if text := paragraphs(prose); text != "" {
		b.WriteString(".PP\n" + text)
	}
	for _, f := range shown(c.Flags) {
		b.WriteString(flagItem(f))
	}
	for _, e := range exits {
		b.WriteString(item(bold("exit status "+e.Term), roff(sentence(e.Text))))
	}
	for _, sub := range visible(c.Subcommands) {
		b.WriteString(w.subcommand(path, sub))
	}
	return b.String()
}

// flagsBelow are a command's options and those of all that is below it.
func flagsBelow(c *cli.Command) []cli.Flag {
	all := slices.Clone(c.Flags)
	for _, sub := range visible(c.Subcommands) {
		all = append(all, flagsBelow(sub)...)
	}
	return all
}

func (w manWriter) reference(page string) string {
	return bold(page) + fmt.Sprintf("(%d)", w.Section)
}

// synopses is the usage of a command, or of all that are below it.
func synopses(path string, c *cli.Command) string {
	subcommands := visible(c.Subcommands)
	if len(subcommands) == 0 {
		return cmp.Or(c.UsageText, path)
	}
	var all []string
	for _, sub := range subcommands {
		all = append(all, synopses(path+" "+sub.Name, sub))
	}
	return strings.Join(all, "\n")
}

// exitCodes are what a description says at its end: "Exit codes: 0 done, 1 failed".
var exitCodes = regexp.MustCompile(`(?:^|, )(\d+(?: and \d+)*) `)

// splitExits takes the paragraph about exit codes out of a description.
func splitExits(description string) (prose string, exits []Entry) {
	var rest []string
	for paragraph := range strings.SplitSeq(description, "\n\n") {
		list, found := strings.CutPrefix(strings.TrimSpace(paragraph), "Exit codes: ")
		if !found {
			rest = append(rest, paragraph)
			continue
		}
		list = strings.TrimSuffix(strings.Join(strings.Fields(list), " "), ".")
		at := exitCodes.FindAllStringSubmatchIndex(list, -1)
		for i, m := range at {
			end := len(list)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			exits = append(exits, Entry{list[m[2]:m[3]], list[m[1]:end]})
		}
	}
	return strings.Join(rest, "\n\n"), exits
}

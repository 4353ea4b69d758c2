package cmdlinetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
)

// Help fails t where the program's help does not say what a command does, how it is
// called, and an example; or what an option is for and what its value is.
func Help(t *testing.T, app *cli.App) {
	t.Helper()
	if app.Usage == "" || !strings.HasPrefix(app.UsageText, app.Name) || !strings.Contains(app.Description, "$ "+app.Name) {
		t.Errorf("%s: no usage, call or example", app.Name)
	}
	options(t, app.Name, app.Flags)
	for _, c := range app.Commands {
		command(t, app.Name, c)
	}
}

func command(t *testing.T, path string, c *cli.Command) {
	t.Helper()
	if c.Hidden {
		return
	}
	path += " " + c.Name
	switch {
	case c.Usage == "" || strings.HasSuffix(c.Usage, "."):
		t.Errorf("%s: no usage, or one with a full stop", path)
	case !strings.HasPrefix(c.UsageText, path):
		t.Errorf("%s: its call begins with something else: %q", path, c.UsageText)
	case len(c.Subcommands) == 0 && !strings.Contains(c.Description, "$ "):
		t.Errorf("%s: no example", path)
	}
	options(t, path, c.Flags)
	for _, sub := range c.Subcommands {
		command(t, path, sub)
	}
}

func options(t *testing.T, path string, flags []cli.Flag) {
	t.Helper()
	for _, f := range flags {
		d, says := f.(cli.DocGenerationFlag)
		_, isDuration := f.(*cli.DurationFlag)
		switch {
		case !says || d.GetUsage() == "":
			t.Errorf("%s --%s: not said what it is for", path, f.Names()[0])
		case d.TakesValue() && !isDuration && strings.Count(d.GetUsage(), "`") != 2:
			t.Errorf("%s --%s: its value has no name", path, f.Names()[0])
		}
	}
}

// Manual fails t where a command, an option, one of the exit codes or a variable is
// in no manual page, and where mandoc finds fault with a page.
func Manual(t *testing.T, app *cli.App, m cmdline.Manual, exits ...int) {
	t.Helper()
	pages := map[string]string{}
	for _, p := range m.Pages(app, time.Unix(1_700_000_000, 0)) {
		if pages[p.Name] != "" {
			t.Errorf("two pages are called %s", p.Name)
		}
		pages[p.Name] = p.Text
		lint(t, p)
	}
	section := "." + strconv.Itoa(m.Section)
	main := pages[app.Name+section]
	for _, code := range exits {
		if !regexp.MustCompile(`\.TP\n\\fB(\d+ and )?` + strconv.Itoa(code) + `( and \d+)?\\fR\n`).MatchString(main) {
			t.Errorf("exit code %d is not in the manual", code)
		}
	}
	inPage(t, app.Name, main, app.Flags)
	for _, c := range app.Commands {
		page := pages[app.Name+"-"+c.Name+section]
		if c.Hidden != (page == "") {
			t.Errorf("%s: hidden is %t, and its page is %q", c.Name, c.Hidden, page)
		}
		if !c.Hidden {
			below(t, app.Name, page, c)
		}
	}
}

// below looks for a command and all under it in the command's page.
func below(t *testing.T, path, page string, c *cli.Command) {
	t.Helper()
	path += " " + c.Name
	if !strings.Contains(page, `\fB`+strings.ReplaceAll(path, "-", `\-`)) {
		t.Errorf("%s is not in the page", path)
	}
	inPage(t, path, page, c.Flags)
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			below(t, path, page, sub)
		}
	}
}

func inPage(t *testing.T, path, page string, flags []cli.Flag) {
	t.Helper()
	for _, f := range flags {
		if v, can := f.(cli.VisibleFlag); can && !v.IsVisible() {
			continue
		}
		for _, name := range f.Names() {
			option := `\fB\-\-` + strings.ReplaceAll(name, "-", `\-`) + `\fR`
			if len(name) == 1 {
				option = `\fB\-` + name + `\fR`
			}
			if !strings.Contains(page, ".TP\n"+option) && !strings.Contains(page, ", "+option) {
				t.Errorf("%s --%s is not in the page", path, name)
			}
		}
		if d, ok := f.(cli.DocGenerationFlag); ok {
			for _, variable := range d.GetEnvVars() {
				if !strings.Contains(page, variable) {
					t.Errorf("%s: %s is not in the page", path, variable)
				}
			}
		}
	}
}

func lint(t *testing.T, p cmdline.Page) {
	t.Helper()
	path := filepath.Join(t.TempDir(), p.Name)
	if err := os.WriteFile(path, []byte(p.Text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning", path).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%s: %v\n%s", p.Name, err, out)
	}
}

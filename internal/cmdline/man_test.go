package cmdline_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
	"github.com/postern-sdp/postern/internal/cmdline/cmdlinetest"
)

const day = 1_700_000_000 // 2023-11-14

func sample() *cli.App {
	return &cli.App{
		Name: "gate", Usage: "open a gate", UsageText: "gate [--key FILE] COMMAND", Version: "v1.2.3",
		Description: "It has 'quotes', back\\slashes, a caret^ and a tilde~.\n.so /etc/passwd\n\n" +
			"Then:\n\n   $ gate open --now\n     .or not\n\n   $ gate shut\n\nAfter it.\n\n" +
			"Exit codes: 0 open, 1 it is stuck, 2 nobody, or too many,\nare there, 130 and 143 ended.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Aliases: []string{"k"}, EnvVars: []string{"GATE_KEY"}, Usage: "`FILE` of the key", Value: "key.pem"},
			&cli.StringFlag{Name: "secret", Hidden: true},
		},
		Commands: []*cli.Command{
			{
				Name: "open", Usage: "open it", UsageText: "gate open [--for DURATION]\n  [--now] NAME",
				Description: "   $ gate open",
				Flags:       []cli.Flag{&cli.DurationFlag{Name: "for", Value: 5 * time.Minute, Usage: "how long"}, &cli.BoolFlag{Name: "now"}},
			},
			{
				Name: "log", Usage: "what was", UsageText: "gate log list", Subcommands: []*cli.Command{{
					Name: "list", Usage: "list it", UsageText: "gate log list [--last N]",
					Description: "Newest first.\n\nExit codes: 0 done, 9 there is none.",
					Flags:       []cli.Flag{&cli.StringSliceFlag{Name: "last", Usage: "`N` entries"}},
				}},
			},
			{Name: "internal", Hidden: true},
		},
	}
}

var sampleManual = cmdline.Manual{
	Section: 1, Files: []cmdline.Entry{{Term: "~/.gate", Text: "the gate"}}, SeeAlso: []string{"door(8)"},
}

// shown is a page as a person sees it.
func shown(t *testing.T, p cmdline.Page) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mandoc", "-T", "ascii")
	cmd.Stdin = strings.NewReader(p.Text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	var plain []byte // bold is a character, a backspace and the character again
	for i := 0; i < len(out); i++ {
		if i+1 < len(out) && out[i+1] == '\b' {
			i++
			continue
		}
		plain = append(plain, out[i])
	}
	return string(plain)
}

func TestTheManualSaysWhatTheHelpSays(t *testing.T) {
	app := sample()
	cmdlinetest.Manual(t, app, sampleManual, 0, 1, 2, 130, 143)
	pages := sampleManual.Pages(app, time.Unix(day, 0))
	var names []string
	for _, p := range pages {
		names = append(names, p.Name)
	}
	if want := []string{"gate.1", "gate-open.1", "gate-log.1"}; !slices.Equal(names, want) {
		t.Fatalf("pages %v, want %v", names, want)
	}
	for i, all := range [][]string{
		{
			"gate - open a gate", "It has 'quotes', back\\slashes, a caret^ and a tilde~.  .so /etc/passwd",
			"           $ gate open --now\n           .or not\n\n           $ gate shut\n\n       After it.",
			"--key, -k FILE\n", "FILE of the key. Default: key.pem.", "GATE_KEY\n", "As --key.", "See gate-open(1).",
			"       1      It is stuck.", "       2      Nobody, or too many, are there.", "130 and 143\n", "~/.gate\n",
			"door(8), gate-log(1), gate-open(1)", "2023-11-14", "gate v1.2.3",
		},
		{
			"gate open [--for DURATION] [--now] NAME", "--for DURATION\n", "How long. Default: 5m.", "--now",
			"The options of gate(1) may stand here too.", "That of gate(1).",
		},
		{
			"gate log list [--last N]", "Newest first.", "--last N\n", "N entries. May be repeated.",
			"exit status 9\n", "There is none.",
		},
	} {
		text, rest := shown(t, pages[i]), ""
		for _, want := range all {
			if !strings.Contains(text, want) {
				t.Errorf("%s: want %q", pages[i].Name, want)
				rest = text
			}
		}
		if strings.Contains(text, "secret") || strings.Contains(text, "internal") || strings.Contains(text, "Exit codes") {
			t.Errorf("%s tells what is hidden, or twice", pages[i].Name)
		}
		if rest != "" {
			t.Log(rest)
		}
	}
}

func TestTheManualIsWrittenTheSameFromTheSameSource(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		app := sample()
		app.Commands = append(app.Commands, cmdline.Man(sample, sampleManual, &out, func(err error) error { return err }))
		app.ExitErrHandler = func(*cli.Context, error) {}
		err := app.RunContext(t.Context(), append([]string{"gate", "man"}, args...))
		return out.String(), err
	}
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := run("--dir", dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range sampleManual.Pages(sample(), time.Unix(day, 0)) {
		b, err := os.ReadFile(filepath.Join(dir, p.Name))
		if err != nil || string(b) != p.Text {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	one, err := run("open")
	b, _ := os.ReadFile(filepath.Join(dir, "gate-open.1"))
	if err != nil || one != string(b) || one == "" {
		t.Errorf("one page: %v", err)
	}
	if out, err := run("nosuch"); err == nil || out != "" {
		t.Errorf("no such page: %q, %v", out, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := run(); err == nil {
		t.Error("a date that is none was taken")
	}
}

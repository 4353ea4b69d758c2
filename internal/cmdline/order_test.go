package cmdline

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestOptionsMayFollowArguments(t *testing.T) {
	app := &cli.App{
		Flags: []cli.Flag{&cli.StringFlag{Name: "config"}, &cli.DurationFlag{Name: "timeout"}},
		Commands: []*cli.Command{
			{Name: "connect", Flags: []cli.Flag{&cli.DurationFlag{Name: "for"}, &cli.BoolFlag{Name: "stdio"},
				&cli.StringFlag{Name: "listen"}}},
			{Name: "enroll", Flags: []cli.Flag{&cli.StringFlag{Name: "name"}}},
			{Name: "exec", ArgsUsage: CommandLine, Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}}},
			{Name: "service", Subcommands: []*cli.Command{
				{Name: "add", Flags: []cli.Flag{&cli.StringFlag{Name: "host"}, &cli.StringFlag{Name: "target"}}},
				{Name: "list", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}}},
			}},
			{Name: "raw", SkipFlagParsing: true},
		},
	}
	for given, want := range map[string]string{
		"connect ssh --for 10m --stdio":           "connect --for 10m --stdio -- ssh",
		"connect --stdio ssh":                     "connect --stdio -- ssh",
		"--timeout 1s connect ssh --stdio":        "--timeout 1s connect --stdio -- ssh",
		"connect -- --stdio":                      "connect -- --stdio",
		"connect ssh --stdio -- -12":              "connect --stdio -- ssh -12",
		"connect ssh --for=1m":                    "connect --for=1m -- ssh",
		"connect ssh --for":                       "connect --for -- ssh",
		"connect a --listen 127.0.0.1:1 b":        "connect --listen 127.0.0.1:1 -- a b",
		"connect ssh --help":                      "connect --help",
		"enroll - --name x":                       "enroll --name x -- -",
		"--config f service add ssh --host web":   "--config f service add --host web -- ssh",
		"service add ssh --host web --target x:1": "service add --host web --target x:1 -- ssh",
		"service list --json":                     "service list --json",
		"exec --json -- curl -s --help":           "exec --json -- curl -s --help",
		"exec --json git checkout -- x --json":    "exec --json git checkout -- x --json",
		"--timeout 1s exec ls --json":             "--timeout 1s exec ls --json",
		"service":                                 "service",
		"unknown a --b":                           "unknown a --b",
		"--unknown service add ssh --host web":    "--unknown service add --host web -- ssh",
		"service nosuch ssh --host web":           "service nosuch ssh --host web",
		"-- service add ssh --host web":           "-- service add ssh --host web",
		"connect ssh --timeout 1s --stdio":        "--timeout 1s connect --stdio -- ssh",
		"service list --config f --json":          "--config f service list --json",
		"connect --for --timeout ssh":             "connect --for --timeout -- ssh",
		"connect ssh -- --timeout 1s":             "connect -- ssh --timeout 1s",
		"connect ssh --timeout":                   "--timeout connect -- ssh",
		"--timeout 1s connect --timeout=2s a":     "--timeout 1s --timeout=2s connect -- a",
		"raw ssh --timeout 1s -v":                 "raw ssh --timeout 1s -v",

		"connect ssh --generate-bash-completion":       "connect ssh --generate-bash-completion",
		"connect --timeout --generate-bash-completion": "--timeout connect --generate-bash-completion",
	} {
		got := Reorder(app, append([]string{"postern"}, strings.Fields(given)...))
		if s := strings.Join(got[1:], " "); s != want {
			t.Errorf("%q became %q, want %q", given, s, want)
		}
	}
}

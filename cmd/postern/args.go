package main

import (
	"flag"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves a command's options ahead of its arguments, so that people may
// write them in any order: the flag package stops at the first argument. All that
// follows a "--" is an argument.
func flagsFirst(app *cli.App, args []string) []string {
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") && args[at] != "-" && args[at] != "--" {
		at += 1 + values(app.Flags, args[at])
	}
	if at >= len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil {
		return args
	}
	var options, rest []string
	for i := at + 1; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			rest = append(rest, arg)
		default:
			n := min(values(command.Flags, arg), len(args)-i-1)
			options = append(options, args[i:i+1+n]...)
			i += n
		}
	}
	out := append(slices.Clone(args[:at+1]), options...)
	if len(rest) > 0 && command.Subcommands == nil {
		out = append(out, "--")
	}
	return append(out, rest...)
}

// values returns how many arguments after it belong to an option: 0 or 1.
func values(flags []cli.Flag, option string) int {
	name := strings.TrimLeft(option, "-")
	if strings.Contains(name, "=") {
		return 0
	}
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range flags {
		if slices.Contains(f.Names(), name) && f.Apply(set) == nil {
			v, ok := set.Lookup(name).Value.(interface{ IsBoolFlag() bool })
			if !ok || !v.IsBoolFlag() {
				return 1
			}
		}
	}
	return 0
}

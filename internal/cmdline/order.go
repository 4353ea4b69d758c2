package cmdline

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// CommandLine is the ArgsUsage of commands that run another one.
const CommandLine = "COMMAND [ARGUMENT]..."

// Reorder puts the options of the last command before its arguments, because the
// library stops reading options at the first argument: "add ssh --host web" is
// what people type. What follows a "--" is left alone.
func Reorder(app *cli.App, args []string) []string {
	commands, flags := app.Commands, app.Flags
	for i := 1; i < len(args); i++ {
		if strings.HasPrefix(args[i], "-") {
			if args[i] == "--" {
				return args
			}
			if takesValue(flags, args[i]) {
				i++
			}
			continue
		}
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[i]) })
		if at < 0 {
			return args
		}
		if commands[at].SkipFlagParsing || commands[at].ArgsUsage == CommandLine {
			return args // they are another program's
		}
		flags = commands[at].Flags
		if commands = commands[at].Subcommands; len(commands) == 0 {
			return slices.Concat(args[:i+1], optionsFirst(flags, args[i+1:]))
		}
	}
	return args
}

func optionsFirst(flags []cli.Flag, args []string) []string {
	var options, plain []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--help" || args[i] == "-h":
			return args[i : i+1] // with an argument it would be a topic
		case args[i] == "--":
			return slices.Concat(options, args[i:i+1], plain, args[i+1:])
		case !strings.HasPrefix(args[i], "-") || args[i] == "-":
			plain = append(plain, args[i])
		case takesValue(flags, args[i]) && i+1 < len(args):
			options = append(options, args[i], args[i+1])
			i++
		default:
			options = append(options, args[i])
		}
	}
	if len(plain) > 0 {
		options = append(options, "--") // "-12" is an argument where one is meant
	}
	return append(options, plain...)
}

// takesValue reports whether the option's value is the next argument.
func takesValue(flags []cli.Flag, option string) bool {
	name := strings.TrimLeft(option, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}

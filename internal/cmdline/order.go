package cmdline

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// CommandLine is the ArgsUsage of commands that run another one.
const CommandLine = "COMMAND [ARGUMENT]..."

// completionFlag is the last argument when a shell asks for completions.
const completionFlag = "--generate-bash-completion"

// Completing reports whether a shell asks what could follow the arguments.
func Completing(args []string) bool { return len(args) > 1 && args[len(args)-1] == completionFlag }

// Unanswerable reports whether a shell asks what could follow a "--". The library takes
// the question for an argument there, and would run the command.
func Unanswerable(args []string) bool { return Completing(args) && slices.Contains(args, "--") }

// Reorder puts the options of the last command before its arguments, and the
// program's own before the command, because the library stops reading options at the
// first argument: "add ssh --host web --timeout 1s" is what people type. What follows
// a "--" is left alone, and so are the arguments of a command that reads them itself.
func Reorder(app *cli.App, args []string) []string {
	if Completing(args) { // the question has to stay the last
		last := len(args) - 1
		return slices.Concat(reorder(app, args[:last], false), args[last:])
	}
	return reorder(app, args, true)
}

// Given reports whether a command line that [Reorder] has been through sets an option
// of its command that needs no value. One that is another program's does not count.
func Given(app *cli.App, args []string, option string) bool {
	commands, flags, given := app.Commands, app.Flags, false
	for i := 1; i < len(args) && args[i] != "--"; i++ {
		if strings.HasPrefix(args[i], "-") {
			name, value, _ := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
			given = given || name == option && value != "false" && has(flags, args[i])
			if takesValue(flags, args[i]) {
				i++
			}
			continue
		}
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[i]) })
		if at < 0 || commands[at].SkipFlagParsing {
			break
		}
		commands, flags = commands[at].Subcommands, commands[at].Flags
	}
	return given
}

func reorder(app *cli.App, args []string, own bool) []string {
	commands, flags := app.Commands, app.Flags
	first := 0 // where the command begins
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
		if first == 0 {
			first = i
		}
		flags = commands[at].Flags
		if commands = commands[at].Subcommands; len(commands) == 0 {
			global, rest := programOptions(app.Flags, flags, args[i+1:])
			if own {
				rest = optionsFirst(flags, rest)
			}
			return slices.Concat(args[:first], global, args[first:i+1], rest)
		}
	}
	return args
}

// programOptions takes those of the program's options out of args that the command,
// with its own flags, does not have.
func programOptions(program, command []cli.Flag, args []string) (global, rest []string) {
	for len(args) > 0 {
		if args[0] == "--" {
			return global, append(rest, args...)
		}
		flags, to := command, &rest
		if !has(command, args[0]) && has(program, args[0]) {
			flags, to = program, &global
		}
		n := 1
		if takesValue(flags, args[0]) {
			n = min(2, len(args))
		}
		*to = append(*to, args[:n]...)
		args = args[n:]
	}
	return global, rest
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
	if strings.Contains(option, "=") {
		return false
	}
	f := find(flags, option)
	_, isBool := f.(*cli.BoolFlag)
	return f != nil && !isBool
}

func has(flags []cli.Flag, option string) bool { return find(flags, option) != nil }

// find returns the flag that an argument like --name or --name=value sets, or nil.
func find(flags []cli.Flag, option string) cli.Flag {
	if !strings.HasPrefix(option, "-") {
		return nil
	}
	name, _, _ := strings.Cut(strings.TrimLeft(option, "-"), "=")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

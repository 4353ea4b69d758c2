package cmdline

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// scripts are the shells' completions. They ask the program itself, with the flag
// that urfave/cli answers. PROGRAM is its name, FUNCTION that name for a shell.
var scripts = map[string]string{
	"bash": `FUNCTION() {
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}") current="${COMP_WORDS[COMP_CWORD]}"
  [[ $current == -* ]] && words+=("$current")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$current"))
}
complete -o bashdefault -o default -F FUNCTION PROGRAM
`,
	"zsh": `#compdef PROGRAM
FUNCTION() {
  local -a found
  found=(${(f)"$(${words[1,$CURRENT-1]} --generate-bash-completion 2>/dev/null)"})
  compadd -a found
}
compdef FUNCTION PROGRAM
`,
	"fish": `complete -c PROGRAM -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null)'
`,
}

// Shells are those that there is a completion for.
func Shells() []string { return []string{"bash", "zsh", "fish"} }

// Script returns the completion of a program for one of the [Shells].
func Script(program, shell string) string {
	function := "_" + strings.ReplaceAll(program, "-", "_")
	return strings.NewReplacer("PROGRAM", program, "FUNCTION", function).Replace(scripts[shell])
}

// Completion is the command that prints a script to out. usage makes the error
// for a wrong command line.
func Completion(program string, out io.Writer, usage func(error) error) *cli.Command {
	c := &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		UsageText: program + " completion bash|zsh|fish",
		Description: fmt.Sprintf(`Load it in the running shell:

   $ source <(%s completion bash)`, program),
		Action: func(c *cli.Context) error {
			return usage(fmt.Errorf("completion: want bash, zsh or fish, got %q", c.Args().First()))
		},
	}
	for _, shell := range Shells() {
		c.Subcommands = append(c.Subcommands, &cli.Command{
			Name: shell, Usage: "for " + shell, UsageText: program + " completion " + shell,
			Description: "   $ " + program + " completion " + shell,
			Action: func(*cli.Context) error {
				_, err := io.WriteString(out, Script(program, shell))
				return err
			},
		})
	}
	return c
}

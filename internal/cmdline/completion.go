package cmdline

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// scripts are the shells' completions. They ask the program itself, with the flag
// that urfave/cli answers. PROGRAM is its name, FUNCTION that name for a shell. Nothing
// that was typed, or that the program answers, is read by the shell once more: a TAB
// must not run anything else.
var scripts = map[string]string{
	"bash": `FUNCTION() {
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}") current="${COMP_WORDS[COMP_CWORD]}" word
  [[ $current == -* ]] && words+=("$current")
  COMPREPLY=()
  while IFS= read -r word; do
    [[ $word == "$current"* ]] && COMPREPLY+=("$word")
  done < <("${words[@]}" --generate-bash-completion 2>/dev/null </dev/null)
}
complete -o bashdefault -o default -F FUNCTION PROGRAM
`,
	// From $fpath, the file is the function that is called first.
	"zsh": `#compdef PROGRAM
FUNCTION() {
  local -a asked found
  asked=("${(@Q)words[1,CURRENT-1]}")
  [[ $words[CURRENT] == -* ]] && asked+=("$words[CURRENT]")
  found=(${(f)"$("${asked[@]}" --generate-bash-completion 2>/dev/null </dev/null)"})
  compadd -a found
}
compdef FUNCTION PROGRAM
[[ $funcstack[1] == FUNCTION ]] && FUNCTION
`,
	// Before version 4, commandline knows no -x.
	"fish": `function FUNCTION
  set -l words (commandline -xpc 2>/dev/null; or commandline -opc)
  set -l current (commandline -ct)
  string match -q -- '-*' $current; and set -a words $current
  $words --generate-bash-completion 2>/dev/null </dev/null
end
complete -c PROGRAM -f -a '(FUNCTION)'
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

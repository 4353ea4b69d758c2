package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

// The shells ask the program itself, with the flag that urfave/cli answers.
const (
	bashCompletion = `_postern() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _postern postern
`
	zshCompletion = `#compdef postern
_postern() {
  local -a found
  found=(${(f)"$(${words[1,$CURRENT-1]} --generate-bash-completion 2>/dev/null)"})
  compadd -a found
}
compdef _postern postern
`
	fishCompletion = `complete -c postern -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null)'
`
)

func (p program) completion() *cli.Command {
	print := func(script string) cli.ActionFunc {
		return func(*cli.Context) error {
			_, err := io.WriteString(p.out, script)
			return err
		}
	}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for bash, zsh or fish",
		UsageText: "postern completion bash|zsh|fish",
		Description: `Load it in the running shell:

   $ source <(postern completion bash)`,
		Subcommands: []*cli.Command{
			{Name: "bash", Usage: "for bash", Action: print(bashCompletion)},
			{Name: "zsh", Usage: "for zsh", Action: print(zshCompletion)},
			{Name: "fish", Usage: "for fish", Action: print(fishCompletion)},
		},
		Action: func(c *cli.Context) error {
			return usageError{fmt.Errorf("completion: want bash, zsh or fish, got %q", c.Args().First())}
		},
	}
}

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completionScript asks the program itself what may follow.
const completionScript = `_postern_controller() {
	local words=("${COMP_WORDS[@]:0:COMP_CWORD}") current="${COMP_WORDS[COMP_CWORD]}"
	[[ $current == -* ]] && words+=("$current")
	COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$current"))
}
complete -o bashdefault -o default -F _postern_controller postern-controller
`

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the shell's completion script",
		UsageText: "postern-controller completion bash",
		Description: `Example:
  $ source <(postern-controller completion bash)`,
		ArgsUsage:    "bash",
		OnUsageError: asUsage,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "SHELL")
			if err != nil {
				return err
			}
			if args[0] != "bash" {
				return usagef("%q is not a shell this program knows: bash", args[0])
			}
			_, err = fmt.Fprint(c.App.Writer, completionScript)
			return err
		},
	}
}

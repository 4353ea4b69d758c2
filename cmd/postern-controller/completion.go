package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
)

func completionCommand(out io.Writer) *cli.Command {
	return cmdline.Completion(program, out, func(err error) error { return usageError{err} })
}

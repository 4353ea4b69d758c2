package main

import (
	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/cmdline"
)

func (p program) completion() *cli.Command {
	return cmdline.Completion("postern-host", p.out, func(err error) error { return usageError{err} })
}

package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/version"
)

func (p program) version() *cli.Command {
	return &cli.Command{
		Name:      "version",
		Usage:     "print the version",
		UsageText: "postern-host version",
		Description: `For bug reports:

   $ postern-host version`,
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintf(p.out, "postern-host %s (%s)\n", version.Version, runtime.Version())
			return err
		},
	}
}

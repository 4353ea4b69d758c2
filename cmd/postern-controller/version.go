package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/version"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:         "version",
		Usage:        "print the version",
		UsageText:    "postern-controller version [--json]",
		Description:  "For bug reports:\n\n  $ postern-controller version",
		OnUsageError: asUsage,
		Flags:        []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.Bool(flagJSON) {
				return printJSON(c.App.Writer, map[string]string{
					"version": version.Version, "go": runtime.Version(),
				})
			}
			_, err := fmt.Fprintln(c.App.Writer, program, version.Version)
			return err
		},
	}
}

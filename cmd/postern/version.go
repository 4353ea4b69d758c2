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
		UsageText: "postern version [--json]",
		Description: `For bug reports:

   $ postern version`,
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if err := none(c); err != nil {
				return err
			}
			if c.Bool("json") {
				return p.printJSON(map[string]string{
					"version": version.Version, "go": runtime.Version(),
					"system": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(p.out, "postern %s (%s, %s/%s)\n",
				version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

//go:build unix

package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"
)

func hostsFile(c *cli.Context) string { return filepath.Join(c.String("root"), "etc/hosts") }

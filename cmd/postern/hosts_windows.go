package main

import (
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

func hostsFile(c *cli.Context) string {
	root := c.String("root")
	if root == "/" {
		root = os.Getenv("SystemRoot")
	}
	return filepath.Join(root, "System32", "drivers", "etc", "hosts")
}

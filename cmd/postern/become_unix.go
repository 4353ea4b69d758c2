//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// become turns this process into another program, whose terminal, signals and exit
// code are then its own.
func (p program) become(path string, args []string) error {
	if p.out != os.Stdout { // within a test
		return p.runFor(path, args)
	}
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, append([]string{path}, args...), os.Environ()))
}

package lab

import (
	"context"
	"os"
	"slices"
)

// Machines lists the lab's machines.
func Machines() []string { return slices.Clone(machines) }

// Shell runs the user's shell on a machine of a standing lab, with the built
// commands in PATH and the machine's own client identity.
func (l *Lab) Shell(ctx context.Context, where string) error {
	program := os.Getenv("SHELL")
	if program == "" {
		program = "/bin/sh"
	}
	cmd := l.command(ctx, program)
	cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+l.ConfigHome(where), "PS1="+where+"# ")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := l.in(where, cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

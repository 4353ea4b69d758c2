package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// spawn starts this program again, away from the terminal, and waits until it says
// that it is ready. It goes on when this one has ended.
func spawn(ctx context.Context, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start an agent: %w", err)
	}
	defer ours.Close()
	cmd := exec.Command(self, args...) // not of ctx: it lives longer
	cmd.Stdout, cmd.SysProcAttr = theirs, detached()
	cmd.Dir = os.TempDir() // it keeps no file system from being unmounted
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start an agent: %w", err)
	}
	go func() { _ = cmd.Wait() }() // so that it leaves no zombie; ends with this process at the latest
	return waitReady(ctx, ours)
}

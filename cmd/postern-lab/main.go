// Command postern-lab runs the whole of Postern on one machine, in network
// namespaces: to see it work, and to play with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitOK    = 0
	exitError = 1
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := exitOK
	if err := app(os.Stdout).RunContext(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "postern-lab:", err)
		code = exitError
	}
	stop()
	os.Exit(code)
}

// Command postern-host is the agent on a protected machine: it keeps every port
// dark and opens one, to one address, for as long as a session lasts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{in: os.Stdin, out: os.Stdout, talk: os.Stderr}
	code := p.report(p.run(ctx, os.Args))
	stop()
	os.Exit(code)
}

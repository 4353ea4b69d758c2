// Command postern reaches services that Postern protects: it knocks, and carries
// the connection through the door that opens.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	// SIGHUP is how ssh ends its ProxyCommand: the session ends with it.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() { // lives as long as the process
		stop(interrupted{<-signals})
		signal.Stop(signals) // the second one ends the program at once
	}()
	p := program{in: os.Stdin, out: os.Stdout, talk: os.Stderr, spawn: spawn}
	os.Exit(p.main(ctx, os.Args))
}

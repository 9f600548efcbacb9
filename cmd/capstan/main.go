package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// open starts a node for serve. The binary that is built with a server sets it
// to node.Open.
var open opener = openNode

func main() {
	os.Exit(run(untilSignal(), open, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// untilSignal ends with the first SIGINT or SIGTERM. The second ends the
// process at once.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		cancel(fmt.Errorf("%s", <-signals))
		<-signals
		os.Exit(130)
	}()
	return ctx
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/mutants"
)

func main() {
	os.Exit(run(untilSignal(), machine{self: os.Args[0], test: jepsen.Run, within: lab.Within, hunt: mutants.Run}, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// untilSignal ends with the first SIGINT or SIGTERM. The second ends the process
// at once, and with it all that a lab has.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		cancel(fmt.Errorf("%s", <-signals))
		<-signals
		fmt.Fprintln(os.Stderr) // the line that tells how it gets on ends nowhere
		os.Exit(130)
	}()
	return ctx
}

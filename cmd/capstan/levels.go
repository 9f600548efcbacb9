package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

// The levels as flags and tables spell them.
const (
	linearizable = "linearizable"
	bounded      = "bounded"
	eventual     = "eventual"
)

// levelFlags choose the consistency of a request.
type levelFlags struct {
	consistency  string
	cp, ap       bool
	maxStaleness time.Duration

	write bool
}

func (f *levelFlags) add(cmd *cobra.Command, write bool) {
	f.write = write
	flags := cmd.Flags()
	levels := "the `level`: linearizable, bounded or eventual"
	if write {
		levels = "the `level`: linearizable or eventual"
	}
	flags.StringVar(&f.consistency, "consistency", linearizable, levels)
	flags.BoolVar(&f.cp, "cp", false, "short for --consistency linearizable")
	flags.BoolVar(&f.ap, "ap", false, "short for --consistency eventual")
	cmd.MarkFlagsMutuallyExclusive("consistency", "cp", "ap")
	if !write {
		flags.DurationVar(&f.maxStaleness, "max-staleness", 0, "how old a bounded read may be")
	}
}

// level is the consistency asked for, with the options that belong to it
// checked: what a node would refuse too, but in the words of the flags.
func (f *levelFlags) level(cmd *cobra.Command) (string, error) {
	level := f.consistency
	switch {
	case f.cp:
		level = linearizable
	case f.ap:
		level = eventual
	}
	changed := cmd.Flags().Changed
	switch level {
	case linearizable, eventual:
	case bounded:
		if f.write {
			return "", usageErrorf("a write is linearizable or eventual, never bounded")
		}
		if f.maxStaleness <= 0 {
			return "", usageErrorf("a bounded read needs --max-staleness").hint("--consistency bounded --max-staleness 5s")
		}
	default:
		e := usageErrorf("unknown consistency %q", level)
		if near := closest(level, []string{linearizable, bounded, eventual}); near != "" {
			return "", e.hint("--consistency " + near)
		}
		return "", e.hint("--consistency linearizable, bounded or eventual")
	}
	if level != bounded && changed("max-staleness") {
		return "", usageErrorf("--max-staleness belongs to --consistency bounded")
	}
	if level != eventual {
		for _, flag := range []string{"acks", "replicas"} {
			if cmd.Flags().Lookup(flag) != nil && changed(flag) {
				return "", usageErrorf("--%s belongs to eventual requests", flag).hint("--ap")
			}
		}
		return level, nil
	}
	for _, flag := range []string{"if-absent", "if-present", "if-version"} {
		if cmd.Flags().Lookup(flag) != nil && changed(flag) {
			return "", usageErrorf("--%s belongs to linearizable writes: an eventual one looks at nothing", flag).hint("--cp")
		}
	}
	return level, nil
}

// readOption is the level of a Get or Scan.
func (f *levelFlags) readOption(level string) interface {
	client.GetOption
	client.ScanOption
} {
	switch level {
	case bounded:
		return client.Bounded(f.maxStaleness)
	case eventual:
		return client.Eventual()
	}
	return client.Linearizable()
}

// writeOption is the level of a Put or Delete.
func writeOption(level string) client.WriteOption {
	if level == eventual {
		return client.Eventual()
	}
	return client.Linearizable()
}

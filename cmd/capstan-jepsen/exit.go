package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitCannotTell is the status of whatever has no verdict. Those of verdicts are
// check.Verdict's.
const exitCannotTell = 2

// usageError is wrong usage, or a test that could not run, with what to try.
type usageError struct {
	err error
	try string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func (e *usageError) hint(try string) *usageError {
	e.try = try
	return e
}

func usageErrorf(format string, args ...any) *usageError {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// finish prints what went wrong, if anything, and decides the exit status.
func (p *program) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return p.status
	}
	var usage *usageError
	if !errors.As(err, &usage) {
		// What cobra itself found: "unknown command ...\n\nDid you mean this?\n\tlist\n".
		message, rest, _ := strings.Cut(err.Error(), "\n")
		usage = usageErrorf("%s", message).hint(cmd.CommandPath() + " --help")
		if near := strings.Fields(strings.TrimPrefix(strings.TrimSpace(rest), "Did you mean this?")); len(near) > 0 {
			usage = usage.hint(cmd.CommandPath() + " " + strings.Join(near, ", "))
		}
	}
	fmt.Fprintf(p.stderr, "error: %s\n", usage.err)
	if usage.try != "" {
		fmt.Fprintf(p.stderr, "  try: %s\n", usage.try)
	}
	return exitCannotTell
}

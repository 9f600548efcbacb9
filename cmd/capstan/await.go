package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// awaitWait is far above what a healthy cluster takes to decide.
const awaitWait = 5 * time.Second

func (p *program) awaitCommand() *cobra.Command {
	var f clientFlags
	var session sessionFlags
	var wait time.Duration
	var verbose bool
	cmd := &cobra.Command{
		Use:   "await RECEIPT",
		Short: "tell what became of an eventual write",
		Long: `Waits until an eventual write is decided and says what became of it. Exit status 0
if it is committed; 1 if it was superseded, is lost, or was decided too long ago
to know; 4 if it is still pending.`,
		Example: `  capstan await wr_9Qm2xT
  capstan await wr_9Qm2xT --wait 1m       # a cut may last
  capstan await wr_9Qm2xT --wait 0        # as it stands now`,
		Args: arguments("RECEIPT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait < 0 {
				return usageErrorf("--wait must not be below 0")
			}
			with, err := session.option()
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := c.AwaitWrite(ctx, args[0], wait, with)
				if err != nil && cmd.Context().Err() != nil {
					return (&exitError{status: exitUnknown, err: errors.New("interrupted: it is not known whether the write is decided")}).hint("capstan await " + args[0])
				}
				if err != nil {
					return session.keepFailed(err)
				}
				if err := session.keep(r.Session); err != nil {
					return err
				}
				if p.json {
					err = p.printJSON(r.Message())
				} else {
					err = p.printf("%s\n", fateText(r, wait))
				}
				if err != nil {
					return err
				}
				if verbose {
					p.note("by %s", r.ServedBy)
				}
				return fateStatus(r.Fate)
			})
		},
	}
	f.add(p, cmd)
	session.add(cmd)
	cmd.Flags().DurationVar(&wait, "wait", awaitWait, "how long to wait for a decision (0: not at all)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr who answered")
	return cmd
}

func fateText(r *client.AwaitResult, waited time.Duration) string {
	known := r.Version != client.Version{}
	switch r.Fate {
	case capstanv1.Fate_FATE_COMMITTED:
		return fmt.Sprintf("committed   %s", r.Version)
	case capstanv1.Fate_FATE_SUPERSEDED:
		if known {
			return fmt.Sprintf("superseded  by %s", r.Version)
		}
		return "superseded  too old to know whether it was safe to apply"
	case capstanv1.Fate_FATE_EXPIRED:
		return "expired     decided so long ago that the record is gone"
	case capstanv1.Fate_FATE_LOST:
		return "lost        the nodes that held it were removed before it was committed"
	}
	if waited == 0 {
		return "pending     not decided yet"
	}
	return fmt.Sprintf("pending     not decided after %s", waited)
}

// fateStatus is the exit status that a fate stands for.
func fateStatus(fate capstanv1.Fate) error {
	switch fate {
	case capstanv1.Fate_FATE_COMMITTED:
		return nil
	case capstanv1.Fate_FATE_SUPERSEDED, capstanv1.Fate_FATE_EXPIRED, capstanv1.Fate_FATE_LOST:
		return &exitError{status: exitNo}
	}
	return &exitError{status: exitUnknown}
}

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// cellMost is how many characters of a key or value a table shows; -o json has
// all of them.
const cellMost = 40

func (p *program) conflictsCommand() *cobra.Command {
	var f clientFlags
	var limit uint32
	var verbose bool
	cmd := &cobra.Command{
		Use:   "conflicts [PREFIX]",
		Short: "list eventual writes that lost to another",
		Long: `Lists the eventual writes that lost, by key: what was lost, to which version, and
why. Each partition keeps its latest ones: at most 10,000, 16 MiB, and those of
the last seven days. The last line says how many are gone, if any.`,
		Example: `  capstan conflicts
  capstan conflicts cart:
  capstan conflicts -v                    # and when, and the version that lost
  capstan conflicts -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return arguments("PREFIX")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := []client.ConflictsOption{client.Limit(limit)}
			if len(args) > 0 {
				opts = append(opts, client.Prefix([]byte(args[0])))
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if p.json {
					for m, err := range c.ConflictMessages(ctx, opts...) {
						if err != nil {
							return err
						}
						if err := p.printJSON(m); err != nil {
							return err
						}
					}
					return nil
				}
				var rows []conflictRow
				dropped := uint64(0)
				for m, err := range c.ConflictMessages(ctx, opts...) {
					if err != nil {
						return err // a part of the list would look like all of it
					}
					for _, one := range m.GetConflicts() {
						rows = append(rows, rowOf(one))
					}
					dropped = m.GetDropped()
				}
				p.waiting.stop()
				if len(rows) == 0 && dropped == 0 {
					p.note("no conflicts")
					return nil
				}
				return p.printTable(func(w io.Writer) { showConflicts(w, rows, dropped, verbose) })
			})
		},
	}
	f.add(p, cmd)
	cmd.Flags().Uint32Var(&limit, "limit", 0, "at most so many (0: all)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "and when, and the version that lost")
	return cmd
}

// conflictRow is a line of the table, which keeps no more of a conflict than it
// shows.
type conflictRow struct {
	key, value, lost, winner, why string
	at                            time.Time
}

func rowOf(m *capstanv1.Conflict) conflictRow {
	c := client.ConflictOf(m)
	r := conflictRow{
		key: clipped(visible(c.Key)), value: clipped(visible(c.LosingValue)), lost: c.LosingVersion.String(),
		winner: "-", why: causeText(c), at: c.Time,
	}
	if c.LosingDelete {
		r.value = "(delete)"
	}
	if c.WinningVersion != (client.Version{}) {
		r.winner = c.WinningVersion.String()
	}
	return r
}

// showConflicts prints the table, and then how many conflicts are in it no more.
func showConflicts(w io.Writer, rows []conflictRow, dropped uint64, verbose bool) {
	if dropped > 0 {
		defer fmt.Fprintf(w, "dropped: %d more, of any key: a partition keeps its latest 10,000 conflicts, 16 MiB, seven days\n", dropped)
	}
	if len(rows) == 0 {
		return
	}
	t := table(w)
	head := "KEY\tLOST VALUE\tLOST TO\tWHY\n"
	if verbose {
		head = "WHEN\tKEY\tLOST VALUE\tLOST VERSION\tLOST TO\tWHY\n"
	}
	fmt.Fprint(t, head)
	for _, r := range rows {
		if verbose {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.at.UTC().Format(time.RFC3339), r.key, r.value, r.lost, r.winner, r.why)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.key, r.value, r.winner, r.why)
	}
	_ = t.Flush()
}

// causeText says why a write lost. With a stale base the winner is the
// linearizable write itself, even if an eventual one has replaced it since. None
// is known of what comes after its time: the record of what it had not heard of
// is gone, so nothing vouches for it.
func causeText(c client.Conflict) string {
	switch c.Cause {
	case capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE:
		if c.WinningVersion == (client.Version{}) {
			return "too old to know whether it was safe to apply"
		}
		return "had not heard of this linearizable write"
	case capstanv1.ConflictCause_CONFLICT_CAUSE_OLDER:
		return "older of two eventual writes"
	}
	return "unknown cause"
}

// clipped is text that a table's cell has room for.
func clipped(text string) string {
	characters := 0
	for at := range text {
		if characters++; characters > cellMost {
			return text[:at] + "..."
		}
	}
	return text
}

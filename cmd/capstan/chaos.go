package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/api/client"
)

// settleWait is how long a cut or its end may take to show in all partitions:
// several election timeouts.
const settleWait = 10 * time.Second

// idsMost is how many partitions are named for one reason; -o json names all.
const idsMost = 16

// chaosFlags are those of the commands that change a cut.
type chaosFlags struct {
	clientFlags
	wait time.Duration
}

func (f *chaosFlags) add(p *program, cmd *cobra.Command) {
	f.clientFlags.add(p, cmd)
	cmd.Flags().DurationVar(&f.wait, "wait", settleWait, "how long the cluster may take to settle")
}

// in makes a cut's client and finds the nodes.
func (f *chaosFlags) in(ctx context.Context, do func(context.Context, *lab) error) error {
	if f.wait < 0 {
		return usageErrorf("--wait must not be below 0")
	}
	return f.with(ctx, func(ctx context.Context, c *client.Client) error {
		l, err := findNodes(ctx, c)
		if err != nil {
			return err
		}
		return do(ctx, l)
	})
}

func (p *program) chaosCommand() *cobra.Command {
	return groupCommand("chaos", "cut the network between nodes, for show", `  capstan chaos cut n1,n2 n3
  capstan chaos isolate n1
  capstan chaos status
  capstan chaos heal`, p.chaosCutCommand(), p.chaosIsolateCommand(), p.chaosHealCommand(), p.chaosStatusCommand())
}

func (p *program) chaosCutCommand() *cobra.Command {
	var f chaosFlags
	cmd := &cobra.Command{
		Use:   "cut NODE,NODE NODE...",
		Short: "cut groups of nodes off from each other",
		Long: `Cuts groups of nodes off from each other, and replaces the cut there was. One group
alone is cut off from all other nodes. A node in no group still talks to all.
Clients reach every node all the time.

It returns once each partition has settled: where a quorum is left its replicas
know a leader among them, elsewhere none. Exit status 4 if that takes too long.
Nodes obey only if they were started with --enable-chaos, as those of capstan
demo are; a node that is started again is not cut off any more.`,
		Example: `  capstan chaos cut n1,n2 n3
  capstan chaos cut n1,n2 n3,n4,n5
  capstan chaos cut n1 n2 n3              # everyone alone`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return arguments("NODE,NODE...")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.cut(cmd.Context(), &f, args)
		},
	}
	f.add(p, cmd)
	return cmd
}

func (p *program) chaosIsolateCommand() *cobra.Command {
	var f chaosFlags
	cmd := &cobra.Command{
		Use:     "isolate NODE",
		Short:   "cut one node off from all others",
		Example: `  capstan chaos isolate n1`,
		Args:    arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[0], ",") {
				return usageErrorf("capstan chaos isolate takes one node").hint("capstan chaos cut " + args[0])
			}
			return p.cut(cmd.Context(), &f, args)
		},
	}
	f.add(p, cmd)
	return cmd
}

// cutReport is what a cut prints as JSON: units are in the names.
type cutReport struct {
	Groups     [][]string      `json:"groups"`
	Settled    bool            `json:"settled"`
	Seconds    float64         `json:"seconds"`
	Partitions int             `json:"partitions"`
	Leads      []int           `json:"leads"` // how many partitions each group leads
	Unsettled  []openPartition `json:"unsettled"`
	Silent     []string        `json:"silent"`    // told, but they do not answer
	Unreached  []string        `json:"unreached"` // down, and not told
}

func (p *program) cut(ctx context.Context, f *chaosFlags, args []string) error {
	return f.in(ctx, func(ctx context.Context, l *lab) error {
		plan, err := planCut(args, l.names())
		if err != nil {
			return err
		}
		_, told, err := l.cuts(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := l.tell(ctx, told, plan.from); err != nil {
			return err
		}
		var open []openPartition
		var leads map[uint32]string
		silent, settled := l.until(ctx, f.wait, told, func(seen views) bool {
			open, leads = plan.settling(seen)
			return len(open) == 0
		})
		r := cutReport{
			Groups: plan.groups, Settled: settled, Seconds: time.Since(began).Seconds(), Partitions: l.partitions, Leads: plan.tally(leads),
			Unsettled: append([]openPartition{}, open...), Silent: silent, Unreached: l.without(told),
		}
		if p.json {
			err = p.printObject(r)
		} else {
			err = p.write([]byte(r.text()))
		}
		if err != nil {
			return err
		}
		p.noteUnreached(r.Unreached)
		if !settled {
			return &exitError{status: exitUnknown}
		}
		return nil
	})
}

// noteUnreached tells of nodes that were told nothing, since they are down.
func (p *program) noteUnreached(names []string) {
	if len(names) > 0 && !p.json {
		p.note("down, and not told: %s", strings.Join(names, " "))
	}
}

func (r cutReport) text() string {
	groups := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		groups[i] = strings.Join(g, ",")
	}
	head := "cut " + strings.Join(groups, " | ")
	if !r.Settled {
		var out strings.Builder
		fmt.Fprintf(&out, "%s   not settled after %s:\n", head, span(r.Seconds))
		for _, why := range because(r.Unsettled) {
			fmt.Fprintf(&out, "  %s\n", why)
		}
		for _, node := range r.Silent {
			fmt.Fprintf(&out, "  %s does not answer\n", node)
		}
		return out.String()
	}
	return fmt.Sprintf("%s   settled in %s: %s\n", head, span(r.Seconds), r.leadership())
}

// because lists reasons with their partitions: few things go wrong at a time,
// perhaps in a thousand partitions.
func because(open []openPartition) []string {
	var reasons []string
	ids := make(map[string][]string)
	for _, o := range open {
		if ids[o.Because] == nil {
			reasons = append(reasons, o.Because)
		}
		ids[o.Because] = append(ids[o.Because], fmt.Sprint(o.Partition))
	}
	for i, reason := range reasons {
		these, more := ids[reason], ""
		if len(these) > idsMost {
			more = fmt.Sprintf(" and %d more", len(these)-idsMost)
		}
		reasons[i] = fmt.Sprintf("%s: partition%s %s%s", reason, plural(len(these)), strings.Join(these[:min(idsMost, len(these))], " "), more)
	}
	return reasons
}

// leadership says who leads how much: "n1 and n2 lead all 16 partitions, n3
// leads none".
func (r cutReport) leadership() string {
	var clauses []string
	all := count(r.Partitions, "partition")
	left := r.Partitions
	for i, group := range r.Groups {
		clause := enumerated(group) + " lead"
		if len(group) == 1 {
			clause += "s"
		}
		switch n := r.Leads[i]; n {
		case 0:
			clause += " none"
		case r.Partitions:
			clause += " all " + all
		default:
			clause += fmt.Sprintf(" %d of %s", n, all)
		}
		left -= r.Leads[i]
		clauses = append(clauses, clause)
	}
	if left > 0 {
		// Nodes in no group lead them, or nobody can.
		clauses = append(clauses, fmt.Sprintf("%s led by no group", count(left, "partition")))
	}
	return strings.Join(clauses, ", ")
}

// enumerated is "n1, n2 and n3".
func enumerated(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// span is a time as people say it: tenths of short ones, seconds of long ones.
func span(seconds float64) string {
	if seconds < 9.95 {
		return fmt.Sprintf("%.1fs", seconds)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func (p *program) chaosStatusCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "show who is cut off from whom",
		Example: `  capstan chaos status`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				l, err := findNodes(ctx, c)
				if err != nil {
					return err
				}
				cuts, _, err := l.cuts(ctx)
				if err != nil {
					return err
				}
				if !p.json {
					return p.printTable(func(w io.Writer) { showCuts(w, cuts) })
				}
				for _, cut := range cuts {
					if err := p.printObject(cut); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f.add(p, cmd)
	return cmd
}

func showCuts(w io.Writer, cuts []nodeCut) {
	t := table(w)
	fmt.Fprintln(t, "NODE\tCUT FROM\tFOR")
	for _, c := range cuts {
		from, since := strings.Join(c.From, " "), ""
		if c.Seconds != nil && len(c.From) > 0 {
			since = span(*c.Seconds)
		}
		if !c.Reached {
			from = "(cannot be reached)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Node, dash(from), dash(since))
	}
	_ = t.Flush()
}

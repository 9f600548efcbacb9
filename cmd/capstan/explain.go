package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func (p *program) explainCommand() *cobra.Command {
	var f clientFlags
	var hexKey, verbose bool
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "show where a key lives and where operations on it go",
		Long: `Shows, as one node sees it, the partition of a key, its replicas, and for each
consistency what would read and write it, or why that is refused.`,
		Example: `  capstan explain cart:42
  capstan explain --via n3 cart:42        # as n3 sees it
  capstan explain -v '{cart:42}:item:1'   # and what is hashed`,
		Args: arguments("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := keyOf(args[0], hexKey)
			if err != nil {
				return err
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				// The first endpoint that answers is asked both times, so it
				// is one node's view.
				status, err := c.Status(ctx)
				if err != nil {
					return err
				}
				located, err := c.Locate(ctx, key)
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(located)
				}
				var out strings.Builder
				showRoutes(&out, key, status, located)
				if verbose {
					fmt.Fprintf(&out, "  %-13s %016x, of %s\n", "hash", located.GetHash(), visible(tagOf(key)))
				}
				return p.write([]byte(out.String()))
			})
		},
	}
	f.add(p, cmd)
	addHexKey(cmd, &hexKey)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "and the hash that the partition follows from")
	return cmd
}

// tagOf is the part of a key that is hashed: what stands between the first {
// and the next }, unless that is nothing.
func tagOf(key []byte) []byte {
	if _, rest, ok := bytes.Cut(key, []byte("{")); ok {
		if tag, _, ok := bytes.Cut(rest, []byte("}")); ok && len(tag) > 0 {
			return tag
		}
	}
	return key
}

func showRoutes(w io.Writer, key []byte, s *capstanv1.GetStatusResponse, l *capstanv1.LocateKeyResponse) {
	names := namesOf(s)
	reachable := make(map[string]bool)
	var cutFrom []string
	for _, n := range s.GetNodes() {
		reachable[n.GetName()] = n.GetState() == capstanv1.NodeState_NODE_STATE_ALIVE || n.GetState() == capstanv1.NodeState_NODE_STATE_DRAINING
		if n.GetName() == s.GetServedBy() {
			cutFrom = n.GetCutFrom()
		}
	}
	for _, n := range cutFrom {
		reachable[names.name(n)] = false
	}
	reached := 0
	replicas := make([]string, 0, len(l.GetReplicas()))
	for _, r := range l.GetReplicas() {
		name := names.name(r)
		replicas = append(replicas, name)
		if reachable[name] {
			reached++
		}
	}
	slices.Sort(replicas)
	leader := "no leader"
	if l.GetLeader() != "" {
		leader = names.name(l.GetLeader()) + " leads"
	}
	fmt.Fprintf(w, "%s  partition %d  replicas %s  as %s sees it: %d of %d reachable, %s\n", visible(key), l.GetPartition(),
		strings.Join(replicas, " "), s.GetServedBy(), reached, len(replicas), leader)
	for _, r := range l.GetRoutes() {
		fmt.Fprintf(w, "  %-13s %s\n", levelName(r.GetConsistency()), routeText(names, r))
	}
}

func routeText(names nodeNames, r *capstanv1.Route) string {
	reads, writes, refusal := names.name(r.GetReadsFrom()), names.name(r.GetWritesTo()), r.GetRefusal()
	switch {
	case strings.HasPrefix(refusal, "refused"):
		return refusal
	case refusal != "":
		return "refused: " + refusal
	case reads == writes:
		return "read and written at " + reads
	case writes == "":
		return "read at " + reads
	case reads == "":
		return "written at " + writes
	}
	return "read at " + reads + ", written at " + writes
}

func levelName(c capstanv1.Consistency) string {
	if c == capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS {
		return "bounded"
	}
	return strings.ToLower(strings.TrimPrefix(c.String(), "CONSISTENCY_"))
}

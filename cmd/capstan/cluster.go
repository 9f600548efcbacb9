package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// dash stands for what is empty or unknown in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func stateName(s capstanv1.NodeState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "NODE_STATE_"))
}

// nodeNames maps ids to names, so that tables show names whatever a field holds.
type nodeNames map[string]string

func namesOf(s *capstanv1.GetStatusResponse) nodeNames {
	names := make(nodeNames)
	for _, n := range s.GetNodes() {
		names[n.GetId()] = n.GetName()
	}
	return names
}

func (n nodeNames) name(node string) string {
	if name := n[node]; name != "" {
		return name
	}
	return node
}

// statusCall is a command whose answer is the status message.
func (p *program) statusCall(cmd *cobra.Command, f *clientFlags, show func(io.Writer, *capstanv1.GetStatusResponse)) error {
	return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(s)
		}
		var out strings.Builder
		show(&out, s)
		return p.write([]byte(out.String()))
	})
}

func (p *program) statusCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show the nodes and how the partitions are",
		Long: `Shows the cluster as one node sees it: who is alive, who is cut off from whom on
purpose, because of whom tombstones of deleted keys stay, how many partitions
have a leader, how many copies of undecided eventual writes there are, and which
replicas are out of service although their nodes run: why, and what to do.`,
		Example: `  capstan status
  capstan status --via n3                 # as n3 sees it
  capstan status -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.statusCall(cmd, &f, showStatus)
		},
	}
	f.add(p, cmd)
	return cmd
}

func showStatus(w io.Writer, s *capstanv1.GetStatusResponse) {
	fmt.Fprintf(w, "cluster %s  as %s sees it  replication factor %d  ring epoch %d\n\n", s.GetClusterId(), s.GetServedBy(), s.GetReplicationFactor(), s.GetRingEpoch())
	showNodes(w, s)
	led, tentative, holding := 0, uint64(0), 0
	for _, part := range s.GetPartitions() {
		if part.GetLeader() != "" {
			led++
		}
		if n := part.GetTentativeBacklog(); n > 0 {
			tentative += n
			holding++
		}
	}
	fmt.Fprintf(w, "\npartitions %d: %d with a leader", len(s.GetPartitions()), led)
	if n := len(s.GetPartitions()) - led; n > 0 {
		fmt.Fprintf(w, ", %d without", n)
	}
	if tentative > 0 {
		fmt.Fprintf(w, "  tentative writes %d in %s", tentative, count(holding, "partition"))
	}
	fmt.Fprintln(w)
	showOutages(w, s)
}

// showOutages lists the replicas that are out of service, those of one node and
// remedy together.
func showOutages(w io.Writer, s *capstanv1.GetStatusResponse) {
	names := namesOf(s)
	var remedies []string
	for _, part := range s.GetPartitions() {
		for _, r := range part.GetReplicas() {
			out := r.GetOutage()
			if out == nil {
				continue
			}
			what := "not opened"
			if out.GetQuarantined() {
				what = "quarantined"
			}
			fmt.Fprintf(w, "\nreplica of partition %d on %s: %s since %s\n  why: %s\n", part.GetId(), names.name(r.GetNode()), what,
				out.GetSince().AsTime().Format(time.RFC3339), out.GetReason())
			if try := fmt.Sprintf("  on %s: %s\n", names.name(r.GetNode()), out.GetRemedy()); !slices.Contains(remedies, try) {
				remedies = append(remedies, try)
			}
		}
	}
	if len(remedies) > 0 {
		fmt.Fprintf(w, "\nrequests are answered by the other replicas; to have all of them again:\n%s", strings.Join(remedies, ""))
	}
}

func showNodes(w io.Writer, s *capstanv1.GetStatusResponse) {
	names := namesOf(s)
	leads, replicas := make(map[string]int), make(map[string]int)
	for _, part := range s.GetPartitions() {
		leads[names.name(part.GetLeader())]++
		for _, r := range part.GetReplicas() {
			replicas[names.name(r.GetNode())]++
		}
	}
	t := table(w)
	fmt.Fprintln(t, "NODE\tSTATE\tLEADS\tREPLICAS\tAPI\tPEER\tGOSSIP\tZONE\tVERSION\tID")
	for _, n := range s.GetNodes() {
		state := stateName(n.GetState())
		if cut := n.GetCutFrom(); len(cut) > 0 {
			state += ", cut from " + strings.Join(cut, " ")
		}
		if n := n.GetHoldsBack(); n > 0 {
			state += ", holds back tombstones of " + count(int(n), "partition")
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n.GetName(), state, leads[n.GetName()], replicas[n.GetName()],
			dash(n.GetApiAddress()), dash(n.GetPeerAddress()), dash(n.GetGossipAddress()), dash(n.GetZone()), dash(n.GetSoftwareVersion()), n.GetId())
	}
	_ = t.Flush()
}

func (p *program) ringCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "ring",
		Short: "show each partition: leader, term, replicas, indexes",
		Long: `Shows the partitions as one node sees them. APPLIED is the lowest and highest
index applied by a replica. What this node does not know, it shows as -.`,
		Example: `  capstan ring
  capstan ring --via n3
  capstan ring -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.statusCall(cmd, &f, showRing)
		},
	}
	f.add(p, cmd)
	return cmd
}

// known is a number that is 0 if the node asked does not know it.
func known(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func showRing(w io.Writer, s *capstanv1.GetStatusResponse) {
	names := namesOf(s)
	fmt.Fprintf(w, "ring epoch %d  as %s sees it\n\n", s.GetRingEpoch(), s.GetServedBy())
	t := table(w)
	fmt.Fprintln(t, "PARTITION\tLEADER\tTERM\tREPLICAS\tCOMMIT\tAPPLIED\tTENTATIVE")
	for _, part := range s.GetPartitions() {
		var replicas []string
		var applied []uint64
		for _, r := range part.GetReplicas() {
			name := names.name(r.GetNode())
			if !r.GetVoter() {
				name += " (no vote)"
			}
			replicas = append(replicas, name)
			if r.GetAppliedIndex() > 0 {
				applied = append(applied, r.GetAppliedIndex())
			}
		}
		span := "-"
		if len(applied) > 0 {
			low, high := slices.Min(applied), slices.Max(applied)
			span = strconv.FormatUint(low, 10)
			if high != low {
				span += ".." + strconv.FormatUint(high, 10)
			}
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%d\n", part.GetId(), dash(names.name(part.GetLeader())), known(part.GetTerm()),
			strings.Join(replicas, " "), known(part.GetCommitIndex()), span, part.GetTentativeBacklog())
	}
	_ = t.Flush()
}

func (p *program) nodeCommand() *cobra.Command {
	return groupCommand("node", "list, drain and remove nodes", `  capstan node list
  capstan node drain n3
  capstan node remove n3 --forfeit-tentative`, p.nodeListCommand(), p.nodeDrainCommand(), p.nodeRemoveCommand())
}

func (p *program) nodeListCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "list the nodes as one of them sees them",
		Example: `  capstan node list`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.statusCall(cmd, &f, showNodes)
		},
	}
	f.add(p, cmd)
	return cmd
}

func (p *program) nodeDrainCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "drain NODE",
		Short:   "move everything off a node (not in this release)",
		Example: `  capstan node drain n3`,
		Args:    arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m, err := c.DrainNode(ctx, args[0])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(m)
				}
				return p.printf("draining   %s\n", args[0])
			})
		},
	}
	f.add(p, cmd)
	return cmd
}

func (p *program) nodeRemoveCommand() *cobra.Command {
	var f clientFlags
	var forfeit bool
	cmd := &cobra.Command{
		Use:     "remove NODE",
		Short:   "remove a node for good",
		Example: `  capstan node remove n3 --forfeit-tentative   # its disk is gone`,
		Long: `Removes a node that is down, for good: should it come back, it is refused. Its
eventual writes that no other node has, and that are not committed, are lost.
Nobody can know whether there are any, so that is asked for by name: without
--forfeit-tentative the node stays.`,
		Args: arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m, err := c.RemoveNode(ctx, args[0], forfeit)
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(m)
				}
				return p.printf("removed   %s\n", args[0])
			})
		},
	}
	f.add(p, cmd)
	cmd.Flags().BoolVar(&forfeit, "forfeit-tentative", false, "declare the eventual writes that only this node holds lost")
	return cmd
}

func (p *program) leaderCommand() *cobra.Command {
	return groupCommand("leader", "move leadership", `  capstan leader transfer 9 n2`, p.leaderTransferCommand())
}

func (p *program) leaderTransferCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "transfer PARTITION NODE",
		Short:   "make a node the leader of a partition",
		Example: `  capstan leader transfer 9 n2`,
		Args:    arguments("PARTITION", "NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			partition, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return usageErrorf("partition %q is not a number", args[0])
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m, err := c.TransferLeadership(ctx, uint32(partition), args[1])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(m)
				}
				return p.printf("partition %d  led by %s\n", partition, m.GetLeader())
			})
		},
	}
	f.add(p, cmd)
	return cmd
}

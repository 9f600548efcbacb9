package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

const (
	// verifyTimeout is the default of --timeout: replicas are read at 32 MiB/s.
	verifyTimeout = 10 * time.Minute
	// verifyAtOnce is how many partitions are compared side by side. Each node reads
	// for one at a time; the others wait there.
	verifyAtOnce = 4
	// shownDigest is how many bytes of a digest a table shows; -o json has all.
	shownDigest = 6
)

func (p *program) verifyCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "verify [PARTITION ...]",
		Short: "compare the replicas of partitions, byte for byte",
		Long: `Compares the replicas of each partition, or of those named: values, tombstones and
the record of eventual writes, as they are at each replica right after the same
log entry. A replica that differs from the majority is quarantined: see capstan
status. Nodes do the same by themselves, each partition once a day.

All data is read for it, at 32 MiB/s per node. Exit status: 0 all are equal, 1 some
differ, 3 some could not be compared.`,
		Example: `  capstan verify
  capstan verify 4 7
  capstan verify -o json                  # one object per partition`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var asked []uint32
			for _, arg := range args {
				id, err := strconv.ParseUint(arg, 10, 32)
				if err != nil {
					return usageErrorf("partition %q is not a number", arg)
				}
				asked = append(asked, uint32(id))
			}
			return f.with(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				ctx, cancel := context.WithTimeout(ctx, f.timeout)
				defer cancel()
				return p.verify(ctx, c, asked)
			})
		},
	}
	f.add(p, cmd)
	f.timeout = verifyTimeout
	cmd.Flags().Lookup("timeout").DefValue = verifyTimeout.String()
	return cmd
}

// compared is one partition's comparison, without a result if there is an error.
type compared struct {
	*capstanv1.Comparison
	err error
}

func (p *program) verify(ctx context.Context, c *client.Client, partitions []uint32) error {
	if len(partitions) == 0 {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		for _, part := range s.GetPartitions() {
			partitions = append(partitions, part.GetId())
		}
	}
	all := make([]compared, len(partitions))
	room := make(chan struct{}, verifyAtOnce)
	var comparing sync.WaitGroup
	for i, id := range partitions {
		room <- struct{}{}
		comparing.Go(func() {
			defer func() { <-room }()
			if all[i].Comparison, all[i].err = c.CompareReplicas(ctx, id); all[i].err != nil {
				all[i].Comparison = &capstanv1.Comparison{Partition: id}
			}
		})
	}
	comparing.Wait()
	p.waiting.stop()
	status := exitDone
	for _, one := range all {
		switch {
		case one.GetResult() == capstanv1.ComparisonResult_COMPARISON_RESULT_DIFFERENT:
			status = exitNo
		case one.GetResult() != capstanv1.ComparisonResult_COMPARISON_RESULT_EQUAL && status == exitDone:
			status = exitFailed
		}
		if p.json {
			if err := p.printJSON(one.Comparison); err != nil {
				return err
			}
		}
	}
	if !p.json {
		if err := p.printTable(func(w io.Writer) { showCompared(w, all) }); err != nil {
			return err
		}
	}
	if status == exitDone {
		return nil
	}
	return &exitError{status: status}
}

// verdict is the result in a word.
func (c compared) verdict() string {
	if c.err != nil {
		return "failed"
	}
	return strings.ToLower(strings.TrimPrefix(c.GetResult().String(), "COMPARISON_RESULT_"))
}

func showCompared(w io.Writer, all []compared) {
	counts := map[string]int{}
	for _, one := range all {
		counts[one.verdict()]++
		if one.GetResult() == capstanv1.ComparisonResult_COMPARISON_RESULT_EQUAL {
			continue
		}
		fmt.Fprintf(w, "partition %d  %s", one.GetPartition(), one.verdict())
		if one.err != nil {
			fmt.Fprintf(w, ": %v\n", one.err)
			continue
		}
		fmt.Fprintf(w, "  entry %d\n", one.GetIndex())
		t := table(w)
		for _, r := range one.GetReplicas() {
			what := r.GetRefusal()
			if d := r.GetDigest(); len(d) > 0 {
				what = fmt.Sprintf("%s  %d records  %d bytes", hex.EncodeToString(d[:min(len(d), shownDigest)]), r.GetRecords(), r.GetBytes())
			}
			fmt.Fprintf(t, "  %s\t%s\n", r.GetNode(), what)
		}
		_ = t.Flush()
	}
	fmt.Fprintf(w, "partitions %d", len(all))
	for i, verdict := range []string{"equal", "different", "incomplete", "pending", "failed"} {
		if n := counts[verdict]; n > 0 || i == 0 {
			sep := ", "
			if i == 0 {
				sep = ": "
			}
			fmt.Fprintf(w, "%s%d %s", sep, n, verdict)
		}
	}
	fmt.Fprintln(w)
}

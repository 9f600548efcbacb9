package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// What is judged of every run, whatever its workloads.
var (
	replicas = Checker{
		Name:  "replicas",
		What:  "in the end all replicas of a partition hold the same keys, values and versions, by their hash",
		Check: checkReplicas,
	}
	troubles = Checker{
		Name:  "processes",
		What:  "no process panicked, reported a race or ended unasked",
		Check: checkTroubles,
	}
)

// checkReplicas compares what nodes said in the end. A partition that fewer nodes told
// of than could have been compared says nothing.
func checkReplicas(v *View) Judgement {
	var j Judgement
	if v.History.End == nil || v.History.End.Failed != "" {
		return j // void already, and nothing to compare
	}
	of := map[int][]history.Replica{}
	for _, r := range v.History.Replicas {
		of[r.Partition] = append(of[r.Partition], r)
	}
	keys := 0
	for partition := range v.History.Run.Partitions {
		told := of[partition]
		slices.SortStableFunc(told, func(a, b history.Replica) int { return strings.Compare(a.Node, b.Node) })
		j.Seen += len(told)
		if least := min(2, max(1, v.History.Run.ReplicationFactor)); len(told) < least {
			j.Void = append(j.Void, fmt.Sprintf("partition %d is compared on %d nodes, not on %d", partition, len(told), least))
			continue
		}
		keys += told[0].Keys
		if slices.ContainsFunc(told, func(r history.Replica) bool { return r.Hash != told[0].Hash || r.Keys != told[0].Keys }) {
			var each []string
			for _, r := range told {
				each = append(each, fmt.Sprintf("%s has %d keys, hash %s", r.Node, r.Keys, r.Hash))
			}
			j.Findings = append(j.Findings, Finding{Key: fmt.Sprintf("partition %d", partition), Why: "replicas differ: " + list(each)})
		}
	}
	j.Detail = fmt.Sprintf("%d replicas of %d partitions, %d keys", j.Seen, v.History.Run.Partitions, keys)
	return j
}

func checkTroubles(v *View) Judgement {
	j := Judgement{Seen: len(v.History.Run.Nodes)}
	for _, t := range v.History.Troubles {
		where := t.File
		if t.Line > 0 {
			where += fmt.Sprintf(":%d", t.Line)
		}
		j.Findings = append(j.Findings, Finding{Key: t.Node, Why: fmt.Sprintf("%s (%s)", t.What, where)})
	}
	return j
}

package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// What is judged of every run, whatever its workloads.
var (
	replicas = Checker{
		Name:  "replicas",
		What:  "in the end all replicas of a partition hold the same keys, values and versions, by their hash",
		Check: checkReplicas,
	}
	promoted = Checker{
		Name:  "promoted",
		What:  "once all is healed and ready no eventual write hangs at the node that took it",
		Check: checkPromoted,
	}
	troubles = Checker{
		Name:  "processes",
		What:  "no process panicked, reported a race or ended unasked",
		Check: checkTroubles,
	}
)

// checkReplicas compares what nodes said in the end. A partition that fewer nodes told
// of than could have been compared says nothing. What they said counts too where
// something else of the end failed, as long as they had come to rest.
func checkReplicas(v *View) Judgement {
	var j Judgement
	end := v.History.End
	if end == nil || end.Failed != "" && !end.Settled {
		return j // void already, and not to be compared
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

// undecidedFor is how long after the last fault a write may be pending: promotion
// takes milliseconds, and a minute of writes kept in a cut some seconds.
const undecidedFor = 10 * time.Second

// checkPromoted: who holds an eventual write hands it in as soon as there is a leader,
// so with all nodes ready each is decided. In a run that did not get ready there
// may be no leader.
func checkPromoted(v *View) Judgement {
	j := Judgement{Seen: len(v.History.Fates)}
	h := v.History
	if h.End == nil || strings.Contains(h.End.Failed, "getting ready") {
		return j
	}
	healed := h.Run.TimeLimit
	for _, f := range h.Faults {
		if !f.Healed {
			return j
		}
		healed = max(healed, f.Until)
	}
	if h.Length-healed < undecidedFor {
		return j
	}
	after := (h.Length - healed).Round(time.Second)
	if h.End.Tentative > 0 {
		j.Findings = append(j.Findings, Finding{Why: fmt.Sprintf("%d eventual writes hang at some node, %s after all was healed", h.End.Tentative, after)})
	}
	for _, f := range h.Fates {
		if o := &h.Ops[f.Op]; f.Fate == "pending" && !unstored(o) {
			j.Findings = append(j.Findings, Finding{
				Key: o.Key, Ops: show(o), Why: fmt.Sprintf("%s is pending still, %s after all was healed", o.Value, after),
			})
		}
	}
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

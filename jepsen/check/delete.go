package check

import (
	"fmt"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// The delete workload: puts and deletes of both levels, then linearizable deletes of
// keys that are only read afterwards.
var (
	deleteResurrection = Checker{
		Workload: "delete", Name: "no resurrection",
		What:  "once a linearizable delete was acknowledged nobody reads, linearizably or in the end, what had been acknowledged before it began",
		Check: checkResurrection,
	}
	deleteMixing = Checker{
		Workload: "delete", Name: "linearizable",
		What:  "linearizable operations, and eventual writes that take effect at most once, have an order that explains all linearizable answers",
		Check: shrunk(byContract(mixing, linearizable)),
	}
	deletePrecedence = Checker{
		Workload: "delete", Name: "overwrites",
		What:  "no eventual write wins over a linearizable write or delete that it had not heard of",
		Check: byContract(unbounded(contract.CheckPrecedence), acknowledged),
	}
	deleteAnswers = Checker{
		Workload: "delete", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write is committed once, as one version",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
	deleteSuperseded = Checker{
		Workload: "delete", Name: "superseded",
		What:  "each eventual write that lost had not heard of a linearizable one, or is older, and its receipt names the winner that the list of conflicts names",
		Check: byContract(unbounded(contract.CheckSuperseded), received),
	}
	deleteFates = Checker{
		Workload: "delete", Name: "fates",
		What:  "each acknowledged eventual write is committed, or superseded and on the list of conflicts",
		Check: byContract(unbounded(contract.CheckFates), acknowledged),
	}
)

// checkResurrection believes no version, only times. A write of unknown outcome may
// take effect after the delete, and one that was under way when that began as well:
// neither is held against anybody.
func checkResurrection(v *View) Judgement {
	var j Judgement
	type past struct {
		puts    map[string]*history.Op // acknowledged, by value
		deletes []*history.Op
	}
	keys := map[string]*past{}
	for _, o := range v.Ops {
		k := keys[o.Key]
		if k == nil {
			k = &past{puts: map[string]*history.Op{}}
			keys[o.Key] = k
		}
		switch {
		case !answered(o):
		case o.Func == history.Put:
			k.puts[o.Value] = o
		case o.Func == history.Delete && o.Level == history.Linearizable:
			k.deletes = append(k.deletes, o)
		}
	}
	deletes, settled := 0, v.History.End != nil && v.History.End.Settled
	for _, k := range keys {
		deletes += len(k.deletes)
	}
	for _, o := range v.Ops {
		// All replicas have all there is once the cluster has come to rest: then an
		// eventual read is to see it too.
		if o.Func != history.Get || !answered(o) || o.Level != history.Linearizable && !(o.Final && settled) {
			continue
		}
		k := keys[o.Key]
		j.Seen++
		w := k.puts[o.Value]
		if !o.Found || w == nil {
			continue
		}
		for _, d := range k.deletes {
			if w.Return < d.Invoke && d.Return < o.Invoke {
				j.Findings = append(j.Findings, Finding{
					Key: o.Key, Ops: show(w, d, o),
					Why: fmt.Sprintf("%s was acknowledged, then deleted, and is read %v after the delete", w.Value, o.Invoke-d.Return),
				})
				break
			}
		}
	}
	j.Detail = fmt.Sprintf("%d keys, %d linearizable deletes acknowledged", len(keys), deletes)
	if deletes == 0 && len(v.Ops) > 0 {
		j.Void = append(j.Void, "delete: no linearizable delete was acknowledged")
	}
	return j
}

package check

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

func TestWhatIsJudgedOfEveryRun(t *testing.T) {
	compared := func() *history.History {
		h := good()
		h.Run.Partitions, h.Run.ReplicationFactor = 2, 3
		for partition := range 2 {
			for _, n := range []string{"n3", "n1", "n2"} {
				h.Replicas = append(h.Replicas, history.Replica{Node: n, Partition: partition, Keys: 3, Hash: "aa"})
			}
		}
		return h
	}
	for _, c := range []struct {
		name    string
		bend    func(*history.History)
		verdict Verdict
		why     string
	}{
		{"all is well", func(*history.History) {}, Holds, ""},
		{"one node is gone", func(h *history.History) { h.Replicas = h.Replicas[1:] }, Holds, ""},
		{"a value differs", func(h *history.History) { h.Replicas[4].Hash = "ab" }, Violated, "partition 1: replicas differ: n1 has 3 keys, hash ab, n2 has"},
		{"a key is missing", func(h *history.History) { h.Replicas[0].Keys = 2 }, Violated, "partition 0: replicas differ"},
		{"only one told", func(h *history.History) { h.Replicas = h.Replicas[2:] }, Void, "partition 0 is compared on 1 nodes, not on 2"},
		{"nobody told", func(h *history.History) { h.Replicas = nil }, Void, "partition 0 is compared on 0"},
		{"a value differs, and something else of the end failed", func(h *history.History) {
			h.Replicas[4].Hash, h.End.Failed = "ab", "fates: nobody answered"
		}, Violated, "partition 1: replicas differ"},
		{"they had not come to rest", func(h *history.History) {
			h.Replicas[4].Hash, h.End.Failed, h.End.Settled = "ab", "settling: n3 is behind", false
		}, Void, "settling"},
		{"one replica each is all there is", func(h *history.History) {
			h.Run.ReplicationFactor = 1
			h.Replicas = slices.DeleteFunc(h.Replicas, func(r history.Replica) bool { return r.Node != "n1" })
		}, Holds, ""},
		{"a write hangs", hangs(11*time.Second, ""), Violated, "v0 is pending still, 11s after all was healed"},
		{"a write hangs, nobody knows which", func(h *history.History) {
			hangs(11*time.Second, "")(h)
			h.Fates, h.End.Tentative, h.End.Asked = nil, 3, false
		}, Violated, "3 eventual writes hang at some node, 11s after"},
		{"a write hangs, and not for long", hangs(9*time.Second, ""), Void, "tentative writes were left"},
		{"a write hangs, and so do nodes", hangs(time.Minute, "getting ready: n2 is not"), Void, "getting ready"},
		{"a panic", func(h *history.History) {
			h.Troubles = []history.Trouble{{Node: "n2", File: "n2.log", Line: 7, What: "panic: oh"}}
		}, Violated, "n2: panic: oh (n2.log:7)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := compared()
			c.bend(h)
			r := Check(h, Options{Least: 1})
			if r.Verdict != c.verdict || !strings.Contains(r.Sentence, c.why) {
				t.Errorf("%s: %s", r.Verdict, r.Sentence)
			}
		})
	}
}

// hangs has a write pending so long after the last fault.
func hangs(after time.Duration, failed string) func(*history.History) {
	return func(h *history.History) {
		h.Ops = append(h.Ops, history.Op{
			ID: len(h.Ops), Process: 99, Workload: h.Ops[0].Workload, Node: "n1", Func: history.Put, Level: history.Eventual,
			Key: "k", Value: "v0", Receipt: "r", Outcome: history.OK, Return: 1,
		})
		h.Fates = append(h.Fates, history.Fate{Op: len(h.Ops) - 1, Receipt: "r", Fate: "pending"})
		h.End.Settled, h.End.Failed = false, failed
		at := h.Run.TimeLimit
		for _, f := range h.Faults {
			at = max(at, f.Until)
		}
		h.Length = at + after
	}
}

package check

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// pictured are the workloads whose keys porcupine decides.
var pictured = []string{"register", "mixed"}

// Worst is the key whose picture tells the most: one with a finding, else the one
// that had the most operations. It is false if porcupine had nothing to decide.
func Worst(h *history.History, r *Result) (workload, key string, ok bool) {
	for _, f := range r.Findings {
		if f.Key != "" && slices.Contains(pictured, f.Workload) {
			return f.Workload, f.Key, true
		}
	}
	type place struct{ workload, key string }
	counts := map[place]int{}
	for i := range h.Ops {
		if o := &h.Ops[i]; slices.Contains(pictured, o.Workload) && o.Func != history.Scan {
			counts[place{o.Workload, o.Key}]++
		}
	}
	if len(counts) == 0 {
		return "", "", false
	}
	most := slices.MaxFunc(slices.Collect(maps.Keys(counts)), func(a, b place) int {
		return cmp.Or(cmp.Compare(counts[a], counts[b]), cmp.Compare(b.key, a.key))
	})
	return most.workload, most.key, true
}

// Picture writes porcupine's picture of one key, a page of HTML of its own, or an
// error if there is nothing to draw. Patience bounds how long it may take to find
// what to draw.
func Picture(to io.Writer, h *history.History, workload, key string, patience time.Duration) error {
	var ops []*history.Op
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Workload == workload && o.Key == key {
			ops = append(ops, o)
		}
	}
	end, malformed := ending(h)
	if malformed != nil {
		return fmt.Errorf("key %s: %s", key, malformed.Why)
	}
	t, malformed := translate(ops, end)
	if malformed != nil {
		return fmt.Errorf("key %s: %s", key, malformed.Why)
	}
	return contract.Picture(to, t.History, key, patience)
}

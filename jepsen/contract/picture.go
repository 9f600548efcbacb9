package contract

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Picture writes porcupine's picture of one key, a page of HTML of its own: the
// operations that CheckMixing decides by, and the order that explains them, or as
// much of one as there is. Operations that do not overlap share a row. Patience
// bounds the decision; what was found until then is drawn.
func Picture(to io.Writer, h *History, name string, patience time.Duration) error {
	keys := known(h)
	i := slices.IndexFunc(keys, func(k *key) bool { return k.name == name })
	if i < 0 {
		return fmt.Errorf("no operation of key %q", name)
	}
	ops := keys[i].operations()
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	var free []int64 // when each row's last operation ends
	for i := range ops {
		row := slices.IndexFunc(free, func(until int64) bool { return until < ops[i].Call })
		if row < 0 {
			row = len(free)
			free = append(free, 0)
		}
		free[row], ops[i].ClientId, ops[i].Metadata = ops[i].Return, row, ops[i].Input.(step).Op
	}
	model := register
	model.DescribeOperation = func(input, _ any) string { return input.(step).brief() }
	model.DescribeOperationMetadata = func(op any) string { return fmt.Sprint(op) }
	model.DescribeState = func(state any) string {
		if state == nil {
			return "nothing"
		}
		return fmt.Sprint(state)
	}
	_, info := porcupine.CheckOperationsVerbose(model, ops, patience)
	return porcupine.Visualize(model, info, to)
}

// brief is what fits into a box: what was asked, and what came of it.
func (o *Op) brief() string {
	condition := [...]string{"", " if absent", " if present", " if " + o.Expect}[o.Condition]
	s := map[Kind]string{Get: "get", Put: "put " + o.Value, Delete: "delete"}[o.Kind] + condition
	switch {
	case o.Outcome == Mismatch:
		return s + ": no"
	case o.Outcome == Unknown:
		return s + ": ?"
	case o.read() && o.Found:
		return s + ": " + o.Value
	case o.read():
		return s + ": nothing"
	}
	return s
}

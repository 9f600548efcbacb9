package check

import (
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

func TestPictureOfTheWorstKey(t *testing.T) {
	h := &history.History{Ops: []history.Op{
		{Workload: "set", Key: "set/0", Func: history.Put, Level: history.Linearizable, Value: "x", Outcome: history.OK, Version: "1-1-n1", Invoke: 1, Return: 2},
		{Workload: "set", Key: "set/0", Func: history.Put, Level: history.Linearizable, Value: "y", Outcome: history.OK, Version: "2-1-n1", Invoke: 3, Return: 4},
		{Workload: "register", Key: "register/1", Func: history.Put, Level: history.Linearizable, Value: "v1", Outcome: history.OK, Version: "3-1-n1", Invoke: 5, Return: 6},
	}}
	workload, key, ok := Worst(h, &Result{})
	if !ok || workload != "register" || key != "register/1" {
		t.Errorf("%s %s %v", workload, key, ok)
	}
	// A key with a finding comes before one with many operations.
	if _, key, _ = Worst(h, &Result{Findings: []Finding{{Workload: "set", Key: "set/0"}, {Workload: "register", Key: "register/7"}}}); key != "register/7" {
		t.Errorf("not the key with the finding, but %s", key)
	}
	if _, _, ok := Worst(&history.History{}, &Result{}); ok {
		t.Error("a worst key of nothing")
	}
	var page strings.Builder
	if err := Picture(&page, h, "register", "register/1", time.Second); err != nil || !strings.Contains(page.String(), `"put v1"`) {
		t.Errorf("%v: %.100s", err, page.String())
	}
	h.Ops[2].Version = "?"
	for _, key := range []string{"register/1", "register/2"} {
		if Picture(&page, h, "register", key, time.Second) == nil {
			t.Errorf("a picture of %s", key)
		}
	}
}

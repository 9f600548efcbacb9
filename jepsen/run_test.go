//go:build linux

package jepsen

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Five real nodes are cut in halves while clients work, and what they said holds.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("five processes for half a minute")
	}
	dir := filepath.Join(t.TempDir(), "run")
	told := 0
	o, err := Run(t.Context(), Config{
		Binary: os.Getenv(binaryVariable), Dir: dir, Workloads: []string{"register"}, Nemeses: []string{"cut-halves"},
		Seed: 1, TimeLimit: 10 * time.Second, Progress: func(Progress) { told++ },
	})
	if errors.Is(err, lab.ErrForbidden) {
		t.Skip("NOT TESTED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", o.Result.Verdict, o.Result.Sentence)
	if o.Result.Verdict != check.Holds || told == 0 {
		t.Errorf("%s, and progress was told %d times: %q, findings %v", o.Result.Verdict, told, o.Result.Void, o.Result.Findings)
	}
	h := o.History
	if len(h.Faults) == 0 || !h.Faults[0].Healed || !h.Faults[0].Felt || len(h.Faults[0].Apart) != 2 {
		t.Errorf("faults %+v", h.Faults)
	}
	final, refused, routed := 0, 0, 0
	for _, op := range h.Ops {
		if op.NodeID == "" && op.Node != "" {
			t.Fatalf("nobody knows who answered %v", op)
		}
		if op.Node == "" && op.Outcome == history.OK {
			routed++
		}
		if op.Final {
			final++
		}
		if op.Reason == "NO_QUORUM" && op.Outcome == history.Fail {
			refused++
		}
	}
	if final == 0 || refused == 0 || routed == 0 || h.End == nil || !h.End.Settled || !h.End.Asked || h.End.Failed != "" {
		t.Errorf("%d final operations, %d refused, %d routed, end %+v", final, refused, routed, h.End)
	}
	if want := 8 * 3; len(h.Replicas) != want {
		t.Errorf("%d replicas were looked at, want %d", len(h.Replicas), want)
	}
	if h.Run.Version == "" || len(h.Run.Placement) != 8 || len(h.Run.Placement[0]) != 3 {
		t.Errorf("run %+v", h.Run)
	}
	for _, file := range []string{HistoryFile, ScheduleFile, ResultFile, "n1.log"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "n1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data of n1 is left: %v", err)
	}
}

// Somebody is in a hurry: the record is judged as far as it goes, which is no
// verdict, and nothing is left. On loopback, where every machine can.
func TestInterruptedRun(t *testing.T) {
	if testing.Short() {
		t.Skip("three processes for some seconds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	o, err := Run(ctx, Config{
		Binary: os.Getenv(binaryVariable), Dir: dir, Lab: lab.Loopback, Nodes: 3, Workloads: []string{"register"}, Keep: true,
		Progress: func(p Progress) {
			if p.Counts.OK > 100 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := o.Result; r.Verdict != check.Void || len(r.Findings) > 0 || !strings.Contains(strings.Join(r.Void, " "), Interrupted) {
		t.Errorf("%s: %q, findings %v", r.Verdict, r.Void, r.Findings)
	}
	if h := o.History; len(h.Troubles) > 0 || h.End == nil || h.End.Failed != Interrupted {
		t.Errorf("troubles %v, end %+v", h.Troubles, h.End)
	}
	if _, err := os.Stat(filepath.Join(dir, "n1", "node.json")); err != nil {
		t.Errorf("the data of n1 is to be kept: %v", err)
	}
	if _, err := Run(t.Context(), Config{Binary: os.Getenv(binaryVariable), Dir: dir, Workloads: []string{"register"}}); !errors.Is(err, os.ErrExist) {
		t.Errorf("in the directory of another run: %v", err)
	}
}

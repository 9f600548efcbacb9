package mutants

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// Each mutant's run is one that can be carried out.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range All() {
		t.Run(m.Fault, func(t *testing.T) {
			if seen[m.Fault] || m.What == "" || m.How == "" {
				t.Errorf("twice, or without a word: %+v", m)
			}
			seen[m.Fault] = true
			planted, clean := m.config(7, true), m.config(7, false)
			if err := planted.Schedule.Check(nodes, max(planted.Partitions, 1)); err != nil {
				t.Error(err)
			}
			if err := planted.Schedule.Possible(lab.Namespaces, true); err != nil {
				t.Error(err)
			}
			if end := planted.Schedule.End(); end >= planted.TimeLimit {
				t.Errorf("its faults end at %v, clients at %v", end, planted.TimeLimit)
			}
			for _, name := range planted.Workloads {
				if _, err := workload.Find(name); err != nil {
					t.Error(err)
				}
			}
			if len(planted.Workloads) == 0 || len(m.Kinds()) == 0 || !slices.Equal(m.Workloads(), planted.Workloads) {
				t.Errorf("workloads %q, faults %q", m.Workloads(), m.Kinds())
			}
			// The clean run differs in the fault and in nothing else.
			if planted.Planted != m.Fault || clean.Planted != "" {
				t.Errorf("planted %q and %q", planted.Planted, clean.Planted)
			}
			planted.Planted = ""
			if last := len(planted.Env) - 1; planted.Env[last] != "CAPSTAN_FAULT="+m.Fault {
				t.Errorf("environment %q", planted.Env)
			} else {
				planted.Env = planted.Env[:last]
			}
			if got, want := fmt.Sprintf("%+v", clean), fmt.Sprintf("%+v", planted); len(clean.Schedule) != len(planted.Schedule) ||
				strings.Split(got, "Schedule")[0] != strings.Split(want, "Schedule")[0] || !slices.Equal(clean.Env, planted.Env) {
				t.Errorf("the clean run is\n%s\nthe other\n%s", got, want)
			}
		})
	}
}

// story is what runs end with, by whether a fault is planted and the seed.
type story map[string]any // a check.Verdict, or an error

func (s story) hunt(t *testing.T, c Config) (rows []Row, runs []string, err error) {
	t.Helper()
	h := hunter{
		plantable: func(context.Context, string, []Mutant) error { return nil },
		run: func(_ context.Context, c jepsen.Config) (*jepsen.Outcome, error) {
			run := fmt.Sprintf("%s%d", map[bool]string{true: "planted", false: "clean"}[c.Planted != ""], c.Seed)
			runs = append(runs, run)
			if c.Progress != nil {
				c.Progress(jepsen.Progress{Phase: run})
			}
			switch end := s[run].(type) {
			case error:
				return nil, end
			case check.Verdict:
				r := &check.Result{Verdict: end, Sentence: "it " + string(end)}
				if end == check.Violated {
					r.Findings = []check.Finding{
						{Checker: "slow", Undecided: true},
						{Workload: "set", Checker: "elements", Why: "one is lost", Ops: []check.Shown{{Op: history.Op{}, Return: 4 * time.Second}}},
					}
				}
				return &jepsen.Outcome{Result: r}, nil
			}
			return &jepsen.Outcome{Result: &check.Result{Verdict: check.Holds}}, nil
		},
	}
	rows, err = h.hunt(t.Context(), c)
	return rows, runs, err
}

func TestHunt(t *testing.T) {
	only := []string{All()[1].Fault}
	broken := errors.New("it did not start")
	for _, test := range []struct {
		name  string
		story story
		seeds int
		runs  string
		row   string
		ok    bool
	}{
		{"found at once", story{"planted1": check.Violated}, 0, "[planted1 clean1]", "found after 0 s by elements of set: one is lost", true},
		{
			"found with the third seed", story{"planted1": check.Void, "planted3": check.Violated}, 0,
			"[planted1 planted2 planted3 clean1 clean2 clean3]", "found after 0 s by elements of set: one is lost", true,
		},
		{"not found", story{}, 2, "[planted1 planted2 clean1 clean2]", "not found in 2 runs, 0 s", false},
		{"does not start", story{"planted1": broken}, 1, "[planted1 clean1]", "could not tell: seed 1: it did not start", false},
		{"did not start first", story{"planted1": broken, "planted2": check.Violated}, 0, "[planted1 planted2 clean1 clean2]", "found after 0 s by elements of set: one is lost", true},
		{"found without it", story{"planted1": check.Violated, "clean1": check.Violated}, 1, "[planted1 clean1]", "found after 0 s by elements of set: one is lost; without it: it violated", false},
		{"nothing told without it", story{"planted1": check.Violated, "clean1": check.Void}, 1, "[planted1 clean1]", "found after 0 s by elements of set: one is lost; without it: it could not tell", false},
		{"does not start without it", story{"planted1": check.Violated, "clean1": broken}, 1, "[planted1 clean1]", "found after 0 s by elements of set: one is lost; without it: it did not start", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var told []Row
			var phases []string
			rows, runs, err := test.story.hunt(t, Config{
				Only: only, Seeds: test.seeds, Told: func(r Row) { told = append(told, r) },
				Progress: func(p Progress) { phases = append(phases, p.Run.Phase) },
			})
			if err != nil || len(rows) != 1 || len(told) != 1 || told[0] != rows[0] {
				t.Fatalf("rows %v, told %v: %v", rows, told, err)
			}
			if got := fmt.Sprint(runs); got != test.runs || fmt.Sprint(phases) != test.runs {
				t.Errorf("runs %s, of which was told %s, want %s", got, phases, test.runs)
			}
			if got, want := rows[0].String(), only[0]+": "+test.row; got != want || rows[0].OK() != test.ok {
				t.Errorf("%s (%v), want %s", got, rows[0].OK(), want)
			}
			if rows[0].Found && rows[0].Shown != 4*time.Second {
				t.Errorf("shown at %v", rows[0].Shown)
			}
		})
	}
}

func TestHuntRefuses(t *testing.T) {
	if _, runs, err := (story{}).hunt(t, Config{Only: []string{"skip-base", "no-such"}}); err == nil || len(runs) > 0 {
		t.Errorf("%v, %v", runs, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := hunter{
		plantable: func(context.Context, string, []Mutant) error { return nil },
		run: func(context.Context, jepsen.Config) (*jepsen.Outcome, error) {
			cancel()
			return &jepsen.Outcome{Result: &check.Result{Verdict: check.Void}}, nil
		},
	}
	if rows, err := h.hunt(ctx, Config{}); !errors.Is(err, context.Canceled) || len(rows) > 0 {
		t.Errorf("a hunt that was ended: %v, %v", rows, err)
	}
}

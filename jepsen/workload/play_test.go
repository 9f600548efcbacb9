package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// store is a cluster of one map, that answers at once and never fails.
type store struct {
	values map[string]history.Op // last write that took effect, by key
	index  int
}

func (s *store) do(o history.Op) history.Op {
	if s.values == nil {
		s.values = map[string]history.Op{}
	}
	last, there := s.values[o.Key]
	there = there && last.Func == history.Put
	o.Outcome, o.ServedBy = history.OK, o.Node
	switch o.Func {
	case history.Get:
		if o.Found = there; there {
			o.Value, o.Version = last.Value, last.Version
		}
		return o
	case history.Scan:
		for _, key := range slices.Sorted(keysOf(s.values)) {
			if w := s.values[key]; strings.HasPrefix(key, o.Key) && w.Func == history.Put {
				o.Entries = append(o.Entries, history.Entry{Key: key, Value: w.Value, Version: w.Version})
			}
		}
		return o
	}
	holds := true
	switch o.Condition {
	case history.IfAbsent:
		holds = !there
	case history.IfPresent:
		holds = there
	case history.IfVersion:
		holds = there && last.Version == o.ExpectVersion
	}
	if !holds {
		o.Outcome, o.Mismatch, o.Version = history.Fail, true, last.Version
		return o
	}
	s.index++
	o.Version = fmt.Sprintf("%d-%d-n1-aaaa", s.index, s.index)
	o.Existed = o.Func == history.Delete && there
	if o.Level == history.Eventual {
		o.Receipt = fmt.Sprint("wr_", s.index)
	}
	s.values[o.Key] = o
	return o
}

func keysOf(m map[string]history.Op) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

var config = Config{Seed: 7, Nodes: []string{"n1", "n2", "n3"}, Processes: 6}

// play runs a workload for so many rounds of all slots, and its final operations.
func play(w Workload, c Config, rounds int) (ops, final []history.Op) {
	g := w.New(c)
	s := &store{}
	for range rounds {
		for slot := range c.Processes {
			o, ok := g.Next(slot)
			if !ok {
				continue
			}
			if o.Node == "" {
				o.Node = c.Nodes[slot%len(c.Nodes)]
			}
			o = s.do(o)
			g.Done(slot, o)
			ops = append(ops, o)
		}
	}
	for _, o := range g.Final() {
		o.Final = true
		final = append(final, s.do(o))
	}
	return ops, final
}

func TestEachWorkload(t *testing.T) {
	for _, w := range All() {
		t.Run(w.Name, func(t *testing.T) {
			ops, final := play(w, config, 300)
			if len(ops) < 300 {
				t.Errorf("%d operations of %d slots in 300 rounds", len(ops), config.Processes)
			}
			if w.What == "" || strings.ContainsAny(w.What, "\n") {
				t.Errorf("what it is, in one line: %q", w.What)
			}
			again, _ := play(w, config, 300)
			if fmt.Sprint(again) != fmt.Sprint(ops) {
				t.Error("the same seed gives other operations")
			}
			other := config
			other.Seed++
			if others, _ := play(w, other, 300); fmt.Sprint(others) == fmt.Sprint(ops) {
				t.Error("another seed gives the same operations")
			}
			succeeded := 0
			for _, o := range slices.Concat(ops, final) {
				name, _, ok := strings.Cut(o.Key, "/")
				if !ok || name != w.Name {
					t.Fatalf("the key of %v does not begin with %s/", o, w.Name)
				}
				if o.Outcome == history.OK {
					succeeded++
				}
				if o.Condition != history.Always && (!o.Write() || o.Level != history.Linearizable) || o.Acks > 0 && o.Level != history.Eventual {
					t.Fatalf("no node would take %v", o)
				}
			}
			if succeeded < len(ops)/3 {
				t.Errorf("%d of %d operations succeed where nothing fails", succeeded, len(ops))
			}
			if len(final) == 0 {
				t.Error("nothing is read in the end")
			}
			for _, o := range final {
				if o.Node == "" || !slices.Contains(config.Nodes, o.Node) {
					t.Fatalf("a final operation asks no node: %v", o)
				}
			}
		})
	}
}

func TestFindNamesThoseThatThereAre(t *testing.T) {
	for _, w := range All() {
		if found, err := Find(w.Name); err != nil || found.Name != w.Name {
			t.Errorf("%s: %v", w.Name, err)
		}
	}
	if _, err := Find("registre"); err == nil || !strings.Contains(err.Error(), "register") {
		t.Errorf("a name misspelt: %v", err)
	}
}

// unique fails if two writes of one key write the same value.
func unique(t *testing.T, ops []history.Op) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range ops {
		if o.Func == history.Put && seen[o.Key+"="+o.Value] {
			t.Fatalf("written twice: %v", o)
		}
		seen[o.Key+"="+o.Value] = seen[o.Key+"="+o.Value] || o.Func == history.Put
	}
}

// perKey counts operations.
func perKey(ops []history.Op) map[string]int {
	count := map[string]int{}
	for _, o := range ops {
		count[o.Key]++
	}
	return count
}

func TestRegister(t *testing.T) {
	c := config
	c.OpsPerKey = 40
	ops, final := play(register, c, 200)
	unique(t, ops)
	counts := perKey(ops)
	if len(counts) < len(ops)/c.OpsPerKey || len(final) != len(counts) {
		t.Errorf("%d operations of %d keys, %d in the end", len(ops), len(counts), len(final))
	}
	for key, n := range counts {
		if n > c.OpsPerKey {
			t.Errorf("%d operations of %s", n, key)
		}
	}
	conditional, held := 0, 0
	for _, o := range ops {
		if o.Condition == history.IfVersion {
			conditional++
			if o.Outcome == history.OK {
				held++
			}
		}
	}
	if held == 0 || held == conditional {
		t.Errorf("of %d conditional writes %d succeed", conditional, held)
	}
}

func TestChainsBuildOnWhatStoodThere(t *testing.T) {
	for _, w := range []Workload{set, counter} {
		t.Run(w.Name, func(t *testing.T) {
			ops, _ := play(w, config, 400)
			held, failed, elements := 0, 0, map[string]bool{}
			for _, o := range ops {
				switch {
				case o.Func != history.Put:
				case o.Condition == history.Always || o.Condition == history.IfVersion && o.ExpectVersion == "":
					t.Fatalf("a write without a condition: %v", o)
				case o.Element == "" || o.Value == o.Expect:
					t.Fatalf("nothing is added: %v", o)
				case o.Outcome == history.OK:
					held++
				default:
					failed++
				}
				if o.Func == history.Put && w.Name == "set" {
					if elements[o.Element] {
						t.Fatalf("added twice: %v", o)
					}
					elements[o.Element] = true
				}
			}
			// Both: writers meet, and get through.
			if held < len(ops)/10 || failed < len(ops)/50 {
				t.Errorf("of %d operations %d add and %d are refused", len(ops), held, failed)
			}
		})
	}
}

func TestLevels(t *testing.T) {
	for _, w := range []Workload{mixed, eventual} {
		t.Run(w.Name, func(t *testing.T) {
			ops, final := play(w, config, 400)
			unique(t, ops)
			if len(final) != len(perKey(ops))*(1+len(config.Nodes)) {
				t.Errorf("%d final operations of %d keys", len(final), len(perKey(ops)))
			}
			kinds := map[string]int{}
			for _, o := range ops {
				kinds[fmt.Sprint(o.Level, " ", o.Func, " ", o.Condition)]++
				if o.Condition == history.IfVersion && o.ExpectVersion == "" || (o.Level == history.Bounded) != (o.MaxStaleness > 0) {
					t.Fatalf("no node would take %v", o)
				}
			}
			if want := map[string]int{"mixed": 10, "eventual": 3}[w.Name]; len(kinds) != want {
				t.Errorf("%d kinds of operations, want %d: %v", len(kinds), want, kinds)
			}
			// A final read in a session comes after the linearizable one, whose state it
			// must have.
			seen := map[string]bool{}
			for _, o := range final {
				if o.Session == "" || !seen[o.Session] && o.Level != history.Linearizable {
					t.Fatalf("nothing before %v", o)
				}
				seen[o.Session] = true
			}
		})
	}
}

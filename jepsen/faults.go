package jepsen

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
)

// faults carries out a schedule, and has the record and the progress hear of each
// fault.
type faults struct {
	run      *running
	network  nemesis.Network
	schedule nemesis.Schedule

	mu     sync.Mutex
	active map[int]string
}

func (f *faults) carryOut(ctx context.Context) error {
	began := time.Now()
	for i, e := range f.schedule {
		if !sleepUntil(ctx, began.Add(e.At)) {
			return nil
		}
		about := history.Fault{Number: i, Kind: e.Kind, What: fmt.Sprintf("%s %v", e.Kind, e.Links)}
		about.Apart = apart(e.Links, e.Rule)
		if len(about.Apart) == 2 {
			about.Nodes = about.Apart[0]
		}
		if err := f.begin(about); err != nil {
			return err
		}
		e.At = 0
		effects, err := nemesis.Run(ctx, f.network, nemesis.Schedule{e})
		for _, effect := range effects {
			about.Felt = effect.Felt()
			about.Effect = fmt.Sprintf("%d frames cut, %d lost, %d duplicated, of %d", effect.Cut, effect.Lost, effect.Duplicated, effect.Sent)
		}
		if failed := f.end(about); failed != nil {
			return failed
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func (f *faults) begin(about history.Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == nil {
		f.active = map[int]string{}
	}
	f.active[about.Number] = about.What
	return f.run.write(history.Event{Type: history.TypeFault, Fault: &about})
}

func (f *faults) end(about history.Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.active, about.Number)
	return f.run.write(history.Event{Type: history.TypeHealed, Fault: &about})
}

// now are the faults that are active, in the order in which they began.
func (f *faults) now() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var numbers []int
	for n := range f.active {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var all []string
	for _, n := range numbers {
		all = append(all, f.active[n])
	}
	return all
}

// apart are the groups that cut links leave, if each group's nodes all reach each
// other and none of another group; the smallest first.
func apart(links []lab.Link, rule lab.Rule) [][]string {
	if !rule.Cut {
		return nil
	}
	cut := map[lab.Link]bool{}
	var nodes []string
	for _, l := range links {
		cut[l] = true
		nodes = append(nodes, l.From, l.To)
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	var groups [][]string
	for _, n := range nodes {
		i := slices.IndexFunc(groups, func(g []string) bool { return !cut[lab.Link{From: n, To: g[0]}] })
		if i < 0 {
			groups = append(groups, []string{n})
			continue
		}
		groups[i] = append(groups[i], n)
	}
	for i, g := range groups {
		for _, a := range g {
			for j, other := range groups {
				for _, b := range other {
					if a != b && cut[lab.Link{From: a, To: b}] != (i != j) {
						return nil
					}
				}
			}
		}
	}
	slices.SortStableFunc(groups, func(a, b []string) int { return len(a) - len(b) })
	return groups
}

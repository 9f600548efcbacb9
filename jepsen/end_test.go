package jepsen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// quiet is a cluster of two nodes, after a run; its fields change what it says.
type quiet struct {
	mu       sync.Mutex
	statuses []*capstanv1.GetStatusResponse // one after the other; the last stays
	entries  map[string][]history.Entry     // by node
	down     map[string]bool                // they answer nothing
	removed  []string
	asked    int
	full     bool
	mute     bool // about that
	fateOf   func(receipt string) (string, error)
}

func (q *quiet) ask(node string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	if q.down[node] {
		return errors.New(node + " is down")
	}
	return nil
}

func (q *quiet) status(_ context.Context, node string) (*capstanv1.GetStatusResponse, error) {
	if err := q.ask(node); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.statuses[0]
	if len(q.statuses) > 1 {
		q.statuses = q.statuses[1:]
	}
	return now, nil
}

func (q *quiet) locate(_ context.Context, node, key string) (int, error) {
	return partitionOf(key, 2), q.ask(node)
}

func (q *quiet) fate(_ context.Context, node, receipt string, _ time.Duration) (string, string, error) {
	if err := q.ask(node); err != nil {
		return "", "", err
	}
	fate, err := q.fateOf(receipt)
	return fate, "5-6-n1-a", err
}

func (q *quiet) conflicts(_ context.Context, node string) ([]history.Conflict, error) {
	return []history.Conflict{{Key: "a/0", Value: "v", Losing: "0-1-n1-a", Winning: "5-6-n1-a", Cause: "older"}}, q.ask(node)
}

func (q *quiet) conflictsDropped(_ context.Context, node string) (dropped, told bool, err error) {
	return q.full && node == "n2", !q.mute, q.ask(node)
}

func (q *quiet) holds(_ context.Context, node string) ([]history.Entry, error) {
	return q.entries[node], q.ask(node)
}

func (q *quiet) remove(_ context.Context, node, id string) error {
	if err := q.ask(node); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.removed = append(q.removed, id)
	return nil
}

func (q *quiet) lead(context.Context, string, int) (string, error) { return "n1", nil }
func (q *quiet) cut(context.Context, string, []string) error       { return nil }

// partitionStatus of a partition that n1 leads and both hold.
func partitionStatus(id uint32, commit, applied, backlog uint64) *capstanv1.Partition {
	return &capstanv1.Partition{Id: id, Leader: "n1", CommitIndex: commit, TentativeBacklog: backlog, Replicas: []*capstanv1.Replica{
		{Node: "n1", Voter: true, AppliedIndex: commit}, {Node: "n2", Voter: true, AppliedIndex: applied},
	}}
}

func statusOf(partitions ...*capstanv1.Partition) *capstanv1.GetStatusResponse {
	alive := capstanv1.NodeState_NODE_STATE_ALIVE
	return &capstanv1.GetStatusResponse{ServedBy: "n1", Partitions: partitions, Nodes: []*capstanv1.Node{
		{Name: "n1", Id: "n1-a", State: alive}, {Name: "n2", Id: "n2-a", State: alive},
	}}
}

func settledStatus() *capstanv1.GetStatusResponse {
	return statusOf(partitionStatus(0, 5, 5, 0), partitionStatus(1, 7, 7, 0))
}

func newEnding(file *bytes.Buffer, q *quiet, a answers) *ending {
	return &ending{
		run: newRunning(file, a), face: q, awaitReady: func(context.Context) error { return nil },
		settle: time.Minute, placement: [][]string{{"n1"}, {"n1", "n2"}, {"n1", "n2"}, {"n2"}},
	}
}

func answerOK(_ context.Context, o *history.Op, _ string) string { o.Outcome = history.OK; return "" }

func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		q := &quiet{
			statuses: []*capstanv1.GetStatusResponse{settledStatus()},
			fateOf:   func(string) (string, error) { return "committed", nil },
			entries: map[string][]history.Entry{
				"n1": {{Key: "cart:42", Value: "1", Version: "5-6-n1-a"}, {Key: "cart:43", Value: "2", Version: "5-6-n1-a"}},
				"n2": {{Key: "cart:42", Value: "1", Version: "5-6-n1-a"}},
			},
		}
		e := newEnding(&file, q, answerOK)
		for i := range 3 {
			_ = e.run.do(t.Context(), &history.Op{Node: "n1", Func: history.Put, Level: history.Eventual, Key: "a/0", Value: fmt.Sprint(i)})
		}
		e.run.receipts = []receipt{{op: 0, text: "r0"}, {op: 2, text: "r2"}}
		var phases []string
		end := e.carryOut(t.Context(), []history.Op{{Node: "n1", Func: history.Get, Key: "a/0"}, {Node: "n2", Func: history.Get, Key: "a/0"}}, func(p string) { phases = append(phases, p) })
		if !end.Settled || !end.Asked || end.Failed != "" || end.ConflictsDropped || len(phases) != 7 {
			t.Errorf("%+v after %q", end, phases)
		}
		h := read(t, e.run, &file)
		if len(h.Ops) != 5 || !h.Ops[3].Final || !h.Ops[4].Final || h.Ops[3].Process == h.Ops[4].Process {
			t.Errorf("operations %v", h.Ops)
		}
		slices.SortFunc(h.Fates, func(a, b history.Fate) int { return a.Op - b.Op })
		if want := []history.Fate{{Op: 0, Receipt: "r0", Fate: "committed", Version: "5-6-n1-a"}, {Op: 2, Receipt: "r2", Fate: "committed", Version: "5-6-n1-a"}}; !slices.Equal(h.Fates, want) {
			t.Errorf("fates %v", h.Fates)
		}
		if len(h.Conflicts) != 1 || h.Conflicts[0].Cause != "older" {
			t.Errorf("conflicts %v", h.Conflicts)
		}
		// Both keys lie in partition 3, which n1 has no replica of.
		held := map[string]int{}
		hash := map[string]string{}
		for _, r := range h.Replicas {
			at := fmt.Sprint(r.Node, " ", r.Partition)
			held[at], hash[at] = r.Keys, r.Hash
		}
		if fmt.Sprint(held) != "map[n1 0:0 n1 1:0 n1 2:0 n2 1:0 n2 2:0 n2 3:1]" || hash["n1 1"] != hash["n2 1"] || hash["n2 1"] == hash["n2 3"] {
			t.Errorf("replicas %v", h.Replicas)
		}
	})
}

// What cannot be carried out is told, and what follows is done all the same.
func TestEndThatFails(t *testing.T) {
	never := func(context.Context, *history.Op, string) string { return "" }
	for name, c := range map[string]struct {
		change func(*ending, *quiet)
		answer answers
		want   string
		sound  func(history.End) bool
	}{
		"not ready": {func(e *ending, _ *quiet) {
			e.awaitReady = func(context.Context) error { return errors.New("n2 is not ready") }
		}, answerOK, "n2 is not ready", func(e history.End) bool { return e.Settled && e.Asked }},
		"tentative": {func(_ *ending, q *quiet) {
			q.statuses = []*capstanv1.GetStatusResponse{statusOf(partitionStatus(0, 5, 5, 3))}
		}, answerOK, "3 writes of partition 0 are tentative", func(e history.End) bool { return !e.Settled && e.Asked && e.Tentative == 3 }},
		"behind": {func(_ *ending, q *quiet) {
			q.statuses = []*capstanv1.GetStatusResponse{statusOf(partitionStatus(0, 5, 4, 0))}
		}, answerOK, "n2 has applied 4 of 5 of partition 0", func(e history.End) bool { return !e.Settled && e.Asked }},
		"no leader": {func(_ *ending, q *quiet) {
			s := settledStatus()
			s.Partitions[1].Leader = ""
			q.statuses = []*capstanv1.GetStatusResponse{s}
		}, answerOK, "partition 1 has no leader", func(e history.End) bool { return !e.Settled }},
		"dead": {func(_ *ending, q *quiet) {
			s := settledStatus()
			s.Nodes[1].State = capstanv1.NodeState_NODE_STATE_DEAD
			q.statuses = []*capstanv1.GetStatusResponse{s}
		}, answerOK, "n2 among the dead", func(e history.End) bool { return !e.Settled }},
		"final read": {func(*ending, *quiet) {}, never, "final reads: ", func(e history.End) bool { return e.Settled && e.Asked }},
		"fate": {func(_ *ending, q *quiet) {
			q.fateOf = func(string) (string, error) { return "", errors.New("nobody knows") }
		}, answerOK, "fates: operation 0: nobody knows", func(e history.End) bool { return e.Settled && !e.Asked }},
		"nobody knows of full lists": {func(_ *ending, q *quiet) { q.mute = true }, answerOK, "does not tell whether its lists were ever full", func(e history.End) bool { return e.ConflictsDropped && !e.Asked }},
		"full lists":                 {func(_ *ending, q *quiet) { q.full = true }, answerOK, "", func(e history.End) bool { return e.ConflictsDropped && e.Asked }},
		"a node is silent":           {func(_ *ending, q *quiet) { q.down = map[string]bool{"n2": true} }, answerOK, "n2 is down", func(e history.End) bool { return !e.Asked }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var file bytes.Buffer
				q := &quiet{statuses: []*capstanv1.GetStatusResponse{settledStatus()}, fateOf: func(string) (string, error) { return "committed", nil }}
				e := newEnding(&file, q, answerOK)
				_ = e.run.do(t.Context(), &history.Op{Node: "n1", Func: history.Put, Level: history.Eventual, Key: "a/0"})
				e.run.receipts = []receipt{{op: 0, text: "r0"}}
				e.run.caller = c.answer
				c.change(e, q)
				end := e.carryOut(t.Context(), []history.Op{{Node: "n1", Func: history.Get, Key: "a/0"}}, func(string) {})
				if !strings.Contains(end.Failed, c.want) || c.want == "" && end.Failed != "" || !c.sound(end) {
					t.Errorf("%+v", end)
				}
				read(t, e.run, &file)
			})
		})
	}
}

// Settled is what stays as it is: indexes that rise are followed, and a node that
// does not answer is passed over.
func TestSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quiet{statuses: []*capstanv1.GetStatusResponse{
			statusOf(partitionStatus(0, 5, 5, 0)), statusOf(partitionStatus(0, 6, 6, 0)), statusOf(partitionStatus(0, 7, 6, 0)), statusOf(partitionStatus(0, 7, 7, 0)),
		}, down: map[string]bool{"n2": true}}
		e := newEnding(&bytes.Buffer{}, q, answerOK)
		began := time.Now()
		// It answers every other time, so twice in a row is never seen. Which of the two
		// was asked last is open: the last look comes as the time is over.
		err := e.awaitSettled(t.Context())
		if err == nil || !strings.Contains(err.Error(), "n2") && !strings.Contains(err.Error(), "still rise") || time.Since(began) != e.settle {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		q.down, q.asked = nil, 0
		q.statuses = []*capstanv1.GetStatusResponse{
			statusOf(partitionStatus(0, 5, 5, 0)), statusOf(partitionStatus(0, 6, 6, 0)), statusOf(partitionStatus(0, 7, 6, 0)), statusOf(partitionStatus(0, 7, 7, 0)),
		}
		if err := e.awaitSettled(t.Context()); err != nil || q.asked != 5 {
			t.Errorf("%v after %d looks", err, q.asked)
		}
	})
}

// A node whose disk was emptied is removed by its old id, waited for no longer, and
// not asked what it holds.
func TestEndAfterAWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		s := statusOf(partitionStatus(0, 5, 0, 0))
		s.Nodes = append(s.Nodes, &capstanv1.Node{Name: "n2", Id: "n2-b", State: capstanv1.NodeState_NODE_STATE_ALIVE})
		s.Nodes[1].State = capstanv1.NodeState_NODE_STATE_LEFT
		q := &quiet{statuses: []*capstanv1.GetStatusResponse{s}}
		e := newEnding(&file, q, answerOK)
		e.run.ids.wiped("n2")
		end := e.carryOut(t.Context(), nil, func(string) {})
		if end.Failed != "" || !slices.Equal(end.Removed, []string{"n2-a"}) || !slices.Equal(q.removed, end.Removed) {
			t.Errorf("%+v, removed %q", end, q.removed)
		}
		for _, r := range read(t, e.run, &file).Replicas {
			if r.Node == "n2" {
				t.Errorf("replica %+v", r)
			}
		}
	})
}

// The final operations of a session keep their order; a read that fails is another
// operation the next time.
func TestFinalOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		var mu sync.Mutex
		tries := map[string]int{}
		e := newEnding(&file, &quiet{}, func(_ context.Context, o *history.Op, _ string) string {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			o.Outcome = history.OK
			if tries[o.Key]++; o.Key == "hard" && tries[o.Key] < 3 {
				o.Outcome = history.Fail
			}
			return ""
		})
		began := time.Now()
		if err := e.final(t.Context(), []history.Op{
			{Workload: "w", Session: "s", Node: "n1", Func: history.Get, Key: "first"},
			{Workload: "w", Node: "n1", Func: history.Get, Key: "hard"},
			{Workload: "w", Session: "s", Node: "n2", Func: history.Get, Key: "second"},
			{Workload: "v", Session: "s", Node: "n2", Func: history.Get, Key: "third"},
		}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 3*time.Second+2*endPause {
			t.Errorf("it took %v", took)
		}
		at := map[string]history.Op{}
		h := read(t, e.run, &file)
		for _, o := range h.Ops {
			at[o.Key] = o
		}
		if at["second"].Invoke < at["first"].Return || at["third"].Invoke != at["first"].Invoke || tries["hard"] != 3 || len(h.Ops) != 6 {
			t.Errorf("%v", h.Ops)
		}
	})
}

// A run begins only with a cluster that is what it was to be.
func TestPlaced(t *testing.T) {
	cluster := func(change func(*capstanv1.GetStatusResponse)) *quiet {
		s := settledStatus()
		s.ReplicationFactor = 2
		s.Partitions[1].Replicas[0].Voter = false
		change(s)
		return &quiet{statuses: []*capstanv1.GetStatusResponse{s}}
	}
	s, err := placed(t.Context(), cluster(func(*capstanv1.GetStatusResponse) {}), []string{"n1", "n2"}, 2)
	if err != nil || fmt.Sprint(s.placement) != "[[n1 n2] [n2]]" || s.replicationFactor != 2 || s.ids.of("n2").id != "n2-a" {
		t.Errorf("%+v, %v", s, err)
	}
	for want, c := range map[string]struct {
		change     func(*capstanv1.GetStatusResponse)
		partitions int
	}{
		"has 2 partitions": {func(*capstanv1.GetStatusResponse) {}, 4},
		"n2, which is ready": {func(s *capstanv1.GetStatusResponse) {
			s.Nodes[1].State = capstanv1.NodeState_NODE_STATE_DEAD
		}, 2},
		"by the rule": {func(s *capstanv1.GetStatusResponse) { s.Partitions = append(s.Partitions, s.Partitions...) }, 4},
	} {
		if _, err := placed(t.Context(), cluster(c.change), []string{"n1", "n2"}, c.partitions); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestDropped(t *testing.T) {
	for text, want := range map[string][2]bool{
		"capstan_conflicts_dropped_total{partition=\"1\"} 0\ncapstan_conflicts_dropped_total{partition=\"2\"} 0\n":     {false, true},
		"capstan_conflicts_dropped_total{partition=\"1\"} 0\ncapstan_conflicts_dropped_total{partition=\"2\"} 1e+06\n": {true, true},
		"capstan_conflicts{partition=\"1\"} 4\n": {},
	} {
		if full, told, err := dropped(strings.NewReader(text)); err != nil || want != [2]bool{full, told} {
			t.Errorf("%q: %v, %v, %v", text, full, told, err)
		}
	}
}

package jepsen

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/jepsen/history"
)

const (
	// endWidth is how many questions or final operations are under way at once.
	endWidth = 16
	// endTries is how often a final read is made, each time as an operation of its
	// own, and a question put, before it is given up.
	endTries = 5
	// endPause is between two looks at whether the cluster has settled, and before
	// something is tried again.
	endPause = 200 * time.Millisecond
	// fateWait is how long one question waits for a write to be decided.
	fateWait = 5 * time.Second
)

// ending is what follows the clients' work: the cluster, healed, is asked what it
// ended with.
type ending struct {
	run        *running
	face       face
	awaitReady func(context.Context) error
	// settle bounds the wait until all nodes are ready, and that until nothing is
	// under way any more.
	settle    time.Duration
	placement [][]string
}

// carryOut does all of it, and goes on where something fails, for what can be
// told all the same. What it records nothing of is the End itself, which the
// caller may add to.
func (e *ending) carryOut(ctx context.Context, final []history.Op, phase func(string)) history.End {
	var end history.End
	var failures []error
	step := func(name string, do func() error) bool {
		phase(name)
		err := do()
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
		return err == nil
	}
	step("getting ready", func() error {
		ctx, cancel := context.WithTimeout(ctx, e.settle)
		defer cancel()
		return e.awaitReady(ctx)
	})
	step("removing", func() (err error) {
		if end.Removed, err = e.remove(ctx); err == nil {
			end.Joined, err = e.joined(ctx)
		}
		return err
	})
	if end.Settled = step("settling", func() error { return e.awaitSettled(ctx) }); !end.Settled {
		end.Tentative = e.tentative(ctx)
	}
	step("final reads", func() error { return e.final(ctx, final) })
	end.Asked = step("fates", func() error { return e.fates(ctx) })
	end.Asked = step("conflicts", func() (err error) { end.ConflictsDropped, err = e.conflicts(ctx); return err }) && end.Asked
	step("replicas", func() error { return e.replicas(ctx) })
	if err := errors.Join(failures...); err != nil {
		end.Failed = err.Error()
	}
	return end
}

// anyNode puts a question to one node after the other, until one answers.
func (e *ending) anyNode(ctx context.Context, first int, ask func(node string) error) error {
	var err error
	for i := range endTries {
		if err = ask(e.run.nodes[(first+i)%len(e.run.nodes)]); err == nil {
			return nil
		}
		if !sleepUntil(ctx, time.Now().Add(endPause)) {
			break
		}
	}
	return err
}

// remove takes the nodes whose disks were emptied out of the cluster, as their
// operator has to.
func (e *ending) remove(ctx context.Context) (removed []string, err error) {
	for _, id := range e.run.ids.allGone() {
		removed = append(removed, id)
		err = errors.Join(err, e.anyNode(ctx, 0, func(node string) error { return e.face.remove(ctx, node, id) }))
	}
	return removed, err
}

// joined are the nodes that took the places of those whose disks were emptied.
func (e *ending) joined(ctx context.Context) (joined []string, err error) {
	if len(e.run.ids.allGone()) == 0 {
		return nil, nil
	}
	err = e.anyNode(ctx, 0, func(node string) error {
		status, err := e.face.status(ctx, node)
		if err != nil {
			return err
		}
		joined = nil
		for _, n := range status.GetNodes() {
			if e.run.ids.everGone(n.GetName()) && !e.run.ids.gone(n.GetName(), n.GetId()) {
				joined = append(joined, n.GetId())
			}
		}
		return nil
	})
	return joined, err
}

// awaitSettled waits until no write is tentative and every replica has applied all
// that is committed: twice in a row, as questions are not answered all at one
// moment.
func (e *ending) awaitSettled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.settle)
	defer cancel()
	// A request that its client gave up may be under way for so long.
	if !sleepUntil(ctx, time.Now().Add(e.run.opTimeout+answerSlack)) {
		return ctx.Err()
	}
	before, why := "", ""
	for turn := 0; ; turn++ {
		node := e.run.nodes[turn%len(e.run.nodes)]
		status, err := e.face.status(ctx, node)
		now, unsettled := "", ""
		if err == nil {
			now, unsettled = unsettledIn(status, e.run.ids)
		}
		switch {
		case ctx.Err() != nil: // and so it is no wonder that nobody answered
		case err != nil:
			before, why = "", node+": "+err.Error()
		case unsettled != "":
			before, why = "", unsettled
		case now == before:
			return nil
		default:
			before, why = now, "commit indexes still rise"
		}
		if !sleepUntil(ctx, time.Now().Add(endPause)) {
			return fmt.Errorf("%s after %s", why, e.settle)
		}
	}
}

// tentative is how many writes are not decided, as far as nodes answer.
func (e *ending) tentative(ctx context.Context) (most uint64) {
	for _, node := range e.run.nodes {
		status, err := e.face.status(ctx, node)
		if err != nil {
			continue
		}
		var sum uint64
		for _, p := range status.GetPartitions() {
			sum += p.GetTentativeBacklog()
		}
		most = max(most, sum)
	}
	return most
}

// unsettledIn says what in a status has not settled, empty if all has; indexes are
// then those up to which all is applied.
func unsettledIn(status *capstanv1.GetStatusResponse, ids *identities) (indexes, unsettled string) {
	for _, n := range status.GetNodes() {
		if n.GetState() != capstanv1.NodeState_NODE_STATE_ALIVE && !ids.gone(n.GetName(), n.GetId()) {
			return "", fmt.Sprintf("%s counts %s among the dead", status.GetServedBy(), n.GetName())
		}
	}
	if len(status.GetPartitions()) == 0 {
		return "", status.GetServedBy() + " knows no partitions"
	}
	for _, p := range status.GetPartitions() {
		switch {
		case p.GetLeader() == "":
			return "", fmt.Sprintf("partition %d has no leader", p.GetId())
		case p.GetTentativeBacklog() > 0:
			return "", fmt.Sprintf("%d writes of partition %d are tentative", p.GetTentativeBacklog(), p.GetId())
		}
		for _, r := range p.GetReplicas() {
			if r.GetAppliedIndex() < p.GetCommitIndex() && !ids.everGone(r.GetNode()) {
				return "", fmt.Sprintf("%s has applied %d of %d of partition %d", r.GetNode(), r.GetAppliedIndex(), p.GetCommitIndex(), p.GetId())
			}
		}
		indexes += fmt.Sprint(p.GetCommitIndex(), " ")
	}
	return indexes, ""
}

// final does the final operations: those of a session one after the other, others
// side by side. Reads that fail are made again.
func (e *ending) final(ctx context.Context, ops []history.Op) error {
	var chains [][]history.Op
	at := map[string]int{} // the chain of a session
	for _, o := range ops {
		o.Final = true
		session := o.Workload + " " + o.Session
		if i, known := at[session]; known && o.Session != "" {
			chains[i] = append(chains[i], o)
			continue
		}
		at[session] = len(chains)
		chains = append(chains, []history.Op{o})
	}
	return inParallel(ctx, chains, func(chain []history.Op) error {
		for _, o := range chain {
			if err := e.finally(ctx, o); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *ending) finally(ctx context.Context, asked history.Op) error {
	for try := 1; ; try++ {
		o := asked
		o.Process = e.run.process()
		if err := e.run.do(ctx, &o); err != nil {
			return err
		}
		switch {
		case o.Outcome == history.OK || o.Write():
			return nil
		case try == endTries || !sleepUntil(ctx, time.Now().Add(endPause)):
			return fmt.Errorf("%v: %s", o, o.Error)
		}
	}
}

// fates asks what became of every eventual write that has a receipt, first of all
// the node that took it.
func (e *ending) fates(ctx context.Context) error {
	return inParallel(ctx, e.run.allReceipts(), func(r receipt) error {
		var fate, version string
		err := e.anyNode(ctx, r.node, func(node string) (err error) {
			fate, version, err = e.face.fate(ctx, node, r.text, fateWait)
			return err
		})
		if err != nil {
			return fmt.Errorf("operation %d: %w", r.op, err)
		}
		return e.run.write(history.Event{Type: history.TypeFate, Fate: &history.Fate{Op: r.op, Receipt: r.text, Fate: fate, Version: version}})
	})
}

func (e *ending) conflicts(ctx context.Context) (dropped bool, err error) {
	var found []history.Conflict
	if err := e.anyNode(ctx, 0, func(node string) (err error) { found, err = e.face.conflicts(ctx, node); return err }); err != nil {
		return false, err
	}
	for i := range found {
		if err := e.run.write(history.Event{Type: history.TypeConflict, Conflict: &found[i]}); err != nil {
			return false, err
		}
	}
	for _, node := range e.run.nodes {
		full, told, err := e.face.conflictsDropped(ctx, node)
		if err == nil && !told && e.placedAt(node) {
			err = fmt.Errorf("%s does not tell whether its lists were ever full", node)
		}
		if err != nil {
			return true, err
		}
		dropped = dropped || full
	}
	return dropped, nil
}

// placedAt: the node holds replicas, as far as it has kept its disk.
func (e *ending) placedAt(node string) bool {
	return !e.run.ids.everGone(node) && slices.ContainsFunc(e.placement, func(at []string) bool { return slices.Contains(at, node) })
}

// replicas has each node tell what it holds of its partitions.
func (e *ending) replicas(ctx context.Context) error {
	return inParallel(ctx, e.run.nodes, func(node string) error {
		if e.run.ids.everGone(node) {
			return nil // an emptied disk gets no replica back
		}
		var entries []history.Entry
		var err error
		for range endTries {
			if entries, err = e.face.holds(ctx, node); err == nil || !sleepUntil(ctx, time.Now().Add(endPause)) {
				break
			}
		}
		if err != nil {
			return err
		}
		for _, r := range digest(node, entries, e.placement) {
			if err := e.run.write(history.Event{Type: history.TypeReplica, Replica: &r}); err != nil {
				return err
			}
		}
		return nil
	})
}

// digest sums up what a node holds of each of its partitions.
func digest(node string, entries []history.Entry, placement [][]string) []history.Replica {
	by := map[int][]history.Entry{}
	for p, nodes := range placement {
		if slices.Contains(nodes, node) {
			by[p] = nil
		}
	}
	for _, x := range entries {
		p := partitionOf(x.Key, len(placement))
		if of, here := by[p]; here {
			by[p] = append(of, x)
		}
	}
	var all []history.Replica
	for _, p := range slices.Sorted(maps.Keys(by)) {
		hash := sha256.New()
		for _, x := range by[p] { // scanned, they are in order of keys
			fmt.Fprintf(hash, "%q %q %q\n", x.Key, x.Value, x.Version)
		}
		all = append(all, history.Replica{Node: node, Partition: p, Keys: len(by[p]), Hash: hex.EncodeToString(hash.Sum(nil)[:16])})
	}
	return all
}

// inParallel does all, some at once, and gives the first failure, after which it
// begins no more.
func inParallel[T any](ctx context.Context, all []T, do func(T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var workers sync.WaitGroup
	for range min(endWidth, len(all)) {
		workers.Go(func() {
			for x := range work {
				if err := do(x); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for _, x := range all {
		select {
		case work <- x:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

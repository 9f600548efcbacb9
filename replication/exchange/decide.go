package exchange

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// decideTimeout bounds one question to another node, which may hand in
	// writes before it answers.
	decideTimeout = 2 * time.Second
	// minDecidePause and maxDecidePause bound the pause until it is asked again;
	// what is decided here ends it earlier.
	minDecidePause = 10 * time.Millisecond
	maxDecidePause = 250 * time.Millisecond
	// maxDecideBatches bounds what one question makes a node hand in.
	maxDecideBatches = 64
)

// AwaitDecided returns when all of these writes are decided: committed,
// superseded or lost. State that has applied index knows of it. With kickFirst
// whoever holds them hands them in at once; without, they are waited for.
//
// When ctx ends before that, the error is a *[replication.Error] with
// SessionBehind and outcome NotApplied, that names what is missing.
func (x *Exchange) AwaitDecided(ctx context.Context, p partition.ID, dots []storage.DotRange, kickFirst bool) (index uint64, err error) {
	if !x.enter() {
		return 0, closed()
	}
	defer x.leave()
	left := &storage.DotSet{}
	for _, r := range dots {
		if err := left.AddRange(r); err != nil {
			return 0, bad(replication.BadToken, err.Error(), "")
		}
	}
	if left.Spans() > maxOfferSpans {
		return 0, bad(replication.BadToken, fmt.Sprintf("%d runs of undecided writes; at most %d are possible", left.Spans(), maxOfferSpans), "")
	}
	if left.IsEmpty() {
		return 0, nil
	}
	pl, err := x.addressed(p)
	if err != nil {
		return 0, storeError(err)
	}
	if pl == nil {
		return 0, bad(replication.BadOption, fmt.Sprintf("there is no partition %d", p), "")
	}
	ctx, cancel := x.during(ctx)
	defer cancel()
	for pause := minDecidePause; ; pause = min(2*pause, maxDecidePause) {
		change := pl.awaitChange()
		found, rest := pl.seek(ctx, left, kickFirst)
		index, left = max(index, found), rest
		if left.IsEmpty() {
			pl.log.Hear(index)
			return index, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-change:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return 0, pl.undecided(left, ctx.Err())
		}
	}
}

func (pl *place) undecided(left *storage.DotSet, cause error) *replication.Error {
	named := ""
	for r := range left.Ranges() {
		named = r.String()
		break
	}
	if left.Spans() > 1 {
		named += ", ..."
	}
	e := &replication.Error{Reason: replication.SessionBehind, Outcome: replication.NotApplied, Err: cause, Leader: pl.leader(),
		Message: fmt.Sprintf("not committed yet: %d of this session's eventual writes (%s)", left.Len(), named),
		Try:     "retry when the partition has a leader and the nodes that hold them can be reached, or ask without the session"}
	if e.Leader == "" {
		e.Message += ": nobody is known to lead the partition"
	}
	return e
}

// seek asks whoever may know: this node, the leader, and then those who may
// still hold the writes.
func (pl *place) seek(ctx context.Context, left *storage.DotSet, promote bool) (index uint64, _ *storage.DotSet) {
	index, left = pl.decide(ctx, left, promote)
	leader := pl.leader()
	if left.IsEmpty() {
		return index, left
	}
	if leader != "" && leader != pl.x.cfg.Self {
		at, rest := pl.callDecide(ctx, leader, left, promote)
		if index, left = max(index, at), rest; left.IsEmpty() {
			return index, left
		}
	}
	type answer struct {
		index uint64
		left  *storage.DotSet
	}
	var wg sync.WaitGroup
	nodes := pl.mayHold(left, leader)
	answers := make([]answer, len(nodes))
	for i, node := range nodes {
		wg.Go(func() { answers[i].index, answers[i].left = pl.callDecide(ctx, node, left, promote) })
	}
	wg.Wait()
	for _, a := range answers {
		index, left = max(index, a.index), common(left, a.left)
	}
	return index, left
}

// mayHold are the nodes to ask, beside this one and the leader: the accepting
// ones, and replicas.
func (pl *place) mayHold(dots *storage.DotSet, leader partition.NodeID) []partition.NodeID {
	var found []partition.NodeID
	add := func(n partition.NodeID) {
		if n != leader && n != pl.x.cfg.Self && !slices.Contains(found, n) && pl.x.reachable(n) {
			found = append(found, n)
		}
	}
	if ring := pl.x.cfg.Ring(); ring != nil {
		for _, n := range ring.Replicas(pl.partition) {
			add(n)
		}
		members := ring.Nodes()
		for r := range dots.Ranges() {
			if slices.Contains(members, r.Node) {
				add(r.Node)
			}
		}
	}
	return found
}

// callDecide gives what is left of dots after node was asked.
func (pl *place) callDecide(ctx context.Context, node partition.NodeID, dots *storage.DotSet, promote bool) (uint64, *storage.DotSet) {
	ctx, cancel := context.WithTimeout(ctx, decideTimeout)
	defer cancel()
	b, err := pl.x.cfg.Peers.Call(ctx, node, KindDecide, decideRequest{pl.partition, promote, dots}.encode())
	if err != nil {
		return 0, dots
	}
	a, err := decodeDecideAnswer(b)
	if err != nil || a.status != statusDone {
		return 0, dots
	}
	return a.index, common(dots, a.left)
}

// common is the dots that both sets have; all of left if there are too many gaps.
func common(left, other *storage.DotSet) *storage.DotSet {
	gone, err := without(left, other)
	if err != nil {
		return left
	}
	return minus(left, gone)
}

// decide says which of the dots are left, all others being decided at index or
// below as this node knows. With promote it first hands in those that it holds.
func (pl *place) decide(ctx context.Context, dots *storage.DotSet, promote bool) (index uint64, left *storage.DotSet) {
	index, left = pl.alreadyDecided(dots)
	if left.IsEmpty() || !promote || pl.leader() == "" {
		return index, left
	}
	ranges := slices.Collect(left.Ranges())
	for range maxDecideBatches {
		batch, err := pl.log.Within(ranges, batchLimit)
		if err != nil || len(batch) == 0 || ctx.Err() != nil {
			break
		}
		ranges = behind(ranges, batch[len(batch)-1].Dot)
		// What is flying already is waited for by asking anew.
		if batch = pl.fly(batch); len(batch) > 0 && pl.handOver(batch) != nil {
			break
		}
	}
	at, left := pl.alreadyDecided(left)
	return max(index, at), left
}

// Decided gives those of the writes that are not decided as far as this node
// knows. State that has applied index knows of the others. It asks nobody.
func (x *Exchange) Decided(p partition.ID, dots []storage.DotRange) (index uint64, left []storage.DotRange) {
	pl, err := x.addressed(p)
	if err != nil || pl == nil {
		return 0, dots
	}
	set := &storage.DotSet{}
	for _, r := range dots {
		if set.AddRange(r) != nil {
			return 0, dots
		}
	}
	index, undecided := pl.alreadyDecided(set)
	return index, slices.Collect(undecided.Ranges())
}

func (pl *place) alreadyDecided(dots *storage.DotSet) (index uint64, left *storage.DotSet) {
	left = dots
	if r := pl.x.cfg.Replica(pl.partition); r != nil {
		left = minus(left, r.Promoted())
		kept := &storage.DotSet{}
		for d := range left.Ranges() {
			if !r.Forfeited(d.Node) {
				_ = kept.AddRange(d) // a part of left, so it fits
			}
		}
		left = kept
		if !left.Equal(dots) {
			index, _ = r.Applied() // asked after: it covers what was found
		}
	}
	answered, at := pl.knownDecided()
	if rest := minus(left, answered); !rest.Equal(left) {
		index, left = max(index, at), rest
	}
	return index, left
}

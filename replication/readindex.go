package replication

import (
	"context"
	"errors"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// ReadIndex gives an index such that a read of the replica's state is
// linearizable once [Group.WaitApplied] has returned for it. At the leader it
// costs a round of term confirmation, shared with every other waiting read of
// the host; at a follower a call to the leader, shared likewise. It waits for
// a leader while a quorum is reachable, until ctx is done. Every failure is
// definite.
func (g *Group) ReadIndex(ctx context.Context) (uint64, error) {
	var pause time.Duration
	for {
		changed := g.changed()
		if err := g.refusal(); err != nil {
			return 0, err
		}
		index, err := g.tryReadIndex(ctx)
		if err == nil {
			return index, nil
		}
		if e := (*Error)(nil); errors.As(err, &e) {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, g.outOfTime(ctx.Err(), "asking for a read index")
		}
		wait := g.host.timing.recheck()
		if errors.Is(err, errNotLeading) && g.leaderless() {
			pause = 0 // the next leader proves itself soon
		} else {
			pause = nextBackoff(pause)
			wait = pause
		}
		if !g.pause(ctx, changed, wait) {
			return 0, g.outOfTime(ctx.Err(), "waiting for a leader")
		}
	}
}

// pause waits for a change of leadership, at most d; false if ctx is done.
func (g *Group) pause(ctx context.Context, changed <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// outOfTime is the refusal of an operation that was handed to nobody: it had
// no effect.
func (g *Group) outOfTime(cause error, doing string) error {
	if err := g.refusal(); err != nil {
		return err
	}
	if g.leaderless() {
		e := noLeader(g.Reachable())
		e.Err = cause
		return e
	}
	return deadline(NotApplied, doing, cause)
}

// tryReadIndex makes one attempt. A result of type *Error is final.
func (g *Group) tryReadIndex(ctx context.Context) (uint64, error) {
	if g.lead() != nil {
		return g.host.confirm(ctx, g)
	}
	leader := g.leader()
	if leader.Node == "" || leader.ServerID() == g.self {
		return 0, errNotLeading // wait for a leader, or for our own no-op
	}
	answer := make(chan indexResult, 1)
	if !g.host.asker(leader.Node).add(g.indexRequest(leader, answer)) {
		if err := g.unusable(); err != nil {
			return 0, err
		}
		return 0, overloaded("too many reads wait for the leader")
	}
	for {
		changed := g.changed()
		if g.leader() != leader {
			// One that fell silent is not waited for when there is another.
			return 0, errNotLeading
		}
		select {
		case r := <-answer:
			return r.index, r.err
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// indexRequest is one read at a follower, on its way to the leader's replica.
type indexRequest struct {
	group  *Group // that follower
	leader Member
	answer chan<- indexResult // buffered
}

func (g *Group) indexRequest(leader Member, answer chan<- indexResult) indexRequest {
	return indexRequest{group: g, leader: leader, answer: answer}
}

// replica is the leader's.
func (r indexRequest) replica() storage.Replica {
	return storage.Replica{Group: r.group.replica.Group, Generation: r.leader.Generation}
}

// indexResult is a read index, or why there is none.
type indexResult struct {
	index uint64
	err   error
}

// asker gathers the requests to one node.
func (h *Host) asker(node partition.NodeID) *rounds[indexRequest] {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.askers[node]
	if r == nil {
		// One a node that ever led a group here: bounded by the cluster.
		r = &rounds[indexRequest]{closed: h.closed, run: func(reqs []indexRequest) { h.askIndexes(node, reqs) }}
		h.askers[node] = r
	}
	return r
}

// askIndexes is one round: requests that arrived before it began, one record
// for each replica they name.
func (h *Host) askIndexes(node partition.NodeID, requests []indexRequest) {
	at := map[storage.Replica]int{}
	var replicas []storage.Replica
	for _, r := range requests {
		leader := r.replica()
		if _, ok := at[leader]; !ok {
			at[leader] = len(replicas)
			replicas = append(replicas, leader)
		}
	}
	began := h.elapsed() // before anything is sent
	answers, err := h.callIndexes(node, replicas)
	for _, r := range requests {
		if err != nil {
			r.answer <- indexResult{err: err}
			continue
		}
		answer := answers[at[r.replica()]]
		result := answer.result()
		if result.err == nil && !r.group.counted(r.leader) {
			result = indexResult{err: errUnconfirmed}
		}
		if result.err == nil {
			r.group.learner.learn(r.leader, answer.notice)
			r.group.remember(began, result.index)
		}
		r.answer <- result
	}
}

func (h *Host) callIndexes(node partition.NodeID, replicas []storage.Replica) ([]indexAnswer, error) {
	// The leader may have to wait for a round of its own.
	ctx, cancel := context.WithTimeout(h.ctx, 2*h.timing.confirmTimeout())
	defer cancel()
	b, err := h.peers.Call(ctx, node, KindReadIndex, encodeReplicas(replicas))
	if err != nil {
		// Nothing was changed by asking: the caller tries again.
		return nil, errors.Join(errUnconfirmed, errors.New(err.Error()))
	}
	answers, err := decodeIndexes(b)
	if err == nil && len(answers) != len(replicas) {
		err = errMessage
	}
	return answers, err
}

func (a indexAnswer) result() indexResult {
	switch a.status {
	case indexGiven:
		return indexResult{index: a.index}
	case indexUnconfirmed:
		return indexResult{err: errUnconfirmed}
	}
	return indexResult{err: errNotLeading}
}

// handleReadIndex is the leader's side. Its answers name exactly the replicas
// asked for; they come from one round that began after the request arrived.
func (h *Host) handleReadIndex(ctx context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	replicas, err := decodeReplicas(payload)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.timing.confirmTimeout())
	defer cancel()
	answers := make([]indexAnswer, len(replicas))
	groups := make([]*Group, len(replicas)) // those that are asked
	results := make([]chan indexResult, len(replicas))
	var round []confirmation
	for i, r := range replicas {
		g := h.serving(r)
		if g == nil {
			answers[i].status = indexNoReplica
			continue
		}
		if g.lead() == nil {
			answers[i].status = indexNotLeader
			continue
		}
		answers[i].status = indexUnconfirmed
		groups[i], results[i] = g, make(chan indexResult, 1)
		round = append(round, confirmation{g, results[i]})
	}
	if len(round) == 0 || !h.confirmations.add(round...) {
		return encodeIndexes(answers), nil
	}
	left := len(round)
	take := func(i int, r indexResult) {
		answers[i], results[i] = groups[i].answerIndex(r), nil
		left--
	}
	// Once one group is decided the others get no more than slowRound in all: one that has
	// no quorum must not hold up the reads of the rest. The follower asks for it again.
	late := time.NewTimer(slowRound)
	defer late.Stop()
	for i := range results {
		if results[i] == nil {
			continue
		}
		select {
		case r := <-results[i]:
			take(i, r)
			continue
		case <-late.C:
		}
		break
	}
	tick := time.NewTicker(minBackoff)
	defer tick.Stop()
	for left > 0 {
		for i := range results {
			select { // a nil channel is never ready
			case r := <-results[i]:
				take(i, r)
			default:
			}
		}
		if left < len(round) || ctx.Err() != nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return encodeIndexes(answers), nil
}

func (g *Group) answerIndex(r indexResult) indexAnswer {
	switch {
	case errors.Is(r.err, errNotLeading):
		return indexAnswer{status: indexNotLeader}
	case r.err != nil:
		return indexAnswer{status: indexUnconfirmed}
	}
	return indexAnswer{status: indexGiven, index: r.index, notice: g.notice()}
}

// WaitApplied returns once the replica has applied index. Its failures are
// definite; ctx bounds it.
func (g *Group) WaitApplied(ctx context.Context, index uint64) error {
	return waitErrorOrNil(g.applied.wait(ctx, index))
}

func waitErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return waitError(err)
}

// catchUp asks for one read index after opening and waits for it, so that a
// replica of an idle group learns what is committed without a write. It does so again
// after each time in which the replica has heard no leader.
func (g *Group) catchUp() {
	for {
		index, err := g.ReadIndex(g.ctx)
		if err == nil && g.applied.wait(g.ctx, index) == nil {
			g.caughtUp.Store(true)
			select {
			case <-g.fellBack:
				continue
			case <-g.ctx.Done():
				return
			}
		}
		// No quorum, most often: look again when something changes.
		if g.unusable() != nil || !g.pause(g.ctx, g.changed(), g.host.timing.recheck()) {
			return
		}
	}
}

// checkCaughtUp is the watchdog's: a replica that has heard no leader for too long, cut
// off or paused, does not know what it lacks when it is back.
func (g *Group) checkCaughtUp(now time.Time) {
	if g.silence(now) >= g.host.timing.silence() && g.caughtUp.Swap(false) {
		signal(g.fellBack)
	}
}

// CaughtUp reports whether the replica has applied all that was committed when it opened,
// or when it heard a leader again after a silence; or whether there is no leader that
// could tell.
func (g *Group) CaughtUp() bool {
	if g.caughtUp.Load() || g.leaderless() {
		return true
	}
	reachable, needed := g.Reachable() // below that, whoever was heard last leads no more
	return reachable < needed
}

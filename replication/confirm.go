package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
)

// Term confirmation: how a leader of term T proves that a read may be served.
//
// A round begins after every read in it has arrived. It looks at the group's
// leadership, configuration, commit index and term, in that order, and asks
// the other voters of the configuration for their current term. When a quorum
// of voters has said "not above T", the leader itself counted if it is a voter
// and still at T, the read index is the one looked up.
//
// Why that is linearizable. Let a write W be acknowledged before the read R
// arrived, by the leader of some term U, at log index w.
//
//   - U < T: W was committed in U, so every leader of a later term has it in its
//     log when it takes office, before its own no-op. The read index is at
//     least the index of T's no-op.
//   - U = T: we are that leader (lead is proven for T by a nonce of this
//     process), and we applied W before acknowledging it, so our commit index
//     was at least w by then. It is read after R arrived.
//   - U > T: then some term above T was won before R arrived. Take the first.
//     A quorum of voters granted that vote, and each raised its term above T,
//     durably and visibly in CurrentTerm, before it granted
//     (raft.requestVote: setCurrentTerm precedes persistVote). Its quorum and
//     ours share a voter: the two configurations are equal or one change
//     apart, because changes are made one at a time and a leader makes none
//     before it has committed an entry of its own term. That voter said "not
//     above T" after R arrived: a contradiction, as terms never fall.
//
// The last step needs voters that do not forget. An answer counts only for
// exactly the replica (group, generation) asked: one that was destroyed and
// made anew has another generation and answers "no such replica", which is no
// answer. Non-voters are not asked. Neither lease nor clock is used, and no
// step waits for a disk: CurrentTerm is a load from memory.
//
// A leader that has meanwhile stepped down at T without another term being won
// may still serve the read: nothing above needs it to be leader at the end.

// readIndexOf is the index that a read must see applied: the commit index, but
// at least the leader's no-op.
//
// It is never the index of an entry that state machines do not see (the
// library's own no-op, which would make a wait for it hang). lead is proven,
// so noop is applied and commit >= noop. The caller checks CurrentTerm == T
// after reading commit; terms never fall, so at that moment the log's entries
// from noop on were all appended by the leader of T, which is this replica
// (another leader's entries come with its higher term). The library appends
// its LogNoop once, at the start of T, before our no-op can be proposed, and
// this package never asks for a barrier or a restore. So every entry in
// [noop, commit] is a command or a configuration, which each replica's fsm
// sees, or finds below its applied index after installing a snapshot.
func readIndexOf(commit, noop uint64) uint64 { return max(commit, noop) }

// ballot is what a group asks in one round.
type ballot struct {
	term   uint64
	index  uint64 // the read index if confirmed
	voters []Member
	// needed voters of those asked, beside self.
	needed int
}

// ballotOf decides whom to ask: the voters other than self. The replica itself
// counts only as a voter.
func ballotOf(c raft.Configuration, self raft.ServerID, term, index uint64) ballot {
	b := ballot{term: term, index: index}
	voters := 0
	own := 0
	for _, m := range membersOf(c) {
		switch {
		case m.Nonvoter:
			continue
		case m.ServerID() == self:
			own = 1
		default:
			b.voters = append(b.voters, m)
		}
		voters++
	}
	b.needed = voters/2 + 1 - own
	return b
}

type verdict uint8

const (
	open verdict = iota
	confirmed
	refused
)

// judge counts: confirmed answers so far, and how many may still come.
func judge(needed, confirmations, outstanding int) verdict {
	switch {
	case confirmations >= needed:
		return confirmed
	case confirmations+outstanding < needed:
		return refused
	}
	return open
}

var (
	errNotLeading  = errors.New("does not lead, or has not yet proven it")
	errUnconfirmed = errors.New("no quorum of voters confirmed the term")
)

// newerTerm says that a voter is at a term above the leader's.
type newerTerm struct{ ours, theirs uint64 }

func (e newerTerm) Error() string {
	return fmt.Sprintf("a voter is at term %d, above %d", e.theirs, e.ours)
}

// confirmation is one read that waits for a round.
type confirmation struct {
	group  *Group
	answer chan<- indexResult // buffered; gets no notice
}

// confirm waits for a whole round that begins after the call.
func (h *Host) confirm(ctx context.Context, g *Group) (uint64, error) {
	answer := make(chan indexResult, 1)
	if !h.confirmations.add(confirmation{g, answer}) {
		return 0, overloaded("too many reads wait for a confirmation of the term")
	}
	select {
	case a := <-answer:
		return a.index, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// tally is a group's part of a round.
type tally struct {
	ballot
	began         time.Duration // on the host's clock
	reads         []chan<- indexResult
	confirmations int
	outstanding   int
	newer         uint64
	verdict       verdict
}

func (t *tally) answer(a indexResult) {
	for _, r := range t.reads {
		r <- a
	}
}

// settle reports whether the tally has just been decided.
func (t *tally) settle(g *Group) bool {
	if t.verdict != open {
		return false
	}
	switch t.verdict = judge(t.needed, t.confirmations, t.outstanding); t.verdict {
	case confirmed:
		g.remember(t.began, t.index)
		t.answer(indexResult{index: t.index})
	case refused:
		err := errUnconfirmed
		if t.newer > 0 {
			err = newerTerm{t.term, t.newer}
			g.nudge()
		}
		t.answer(indexResult{err: err})
	}
	return t.verdict != open
}

// confirmRound is one round over all groups that have waiting reads.
func (h *Host) confirmRound(reads []confirmation) {
	tallies := map[*Group]*tally{}
	var order []*Group
	for _, r := range reads {
		t := tallies[r.group]
		if t == nil {
			t = &tally{}
			tallies[r.group] = t
			order = append(order, r.group)
		}
		t.reads = append(t.reads, r.answer)
	}
	asked := map[partition.NodeID]*ask{}
	began := h.elapsed() // before anything is looked at
	undecided := 0
	for _, g := range order {
		t := tallies[g]
		b, err := g.ballot()
		if err != nil {
			t.answer(indexResult{err: err})
			continue
		}
		t.ballot, t.outstanding, t.began = b, len(b.voters), began
		if t.settle(g) {
			continue
		}
		undecided++
		for _, v := range b.voters {
			a := asked[v.Node]
			if a == nil {
				a = &ask{node: v.Node}
				asked[v.Node] = a
			}
			a.groups = append(a.groups, g)
			a.replicas = append(a.replicas, storage.Replica{Group: g.replica.Group, Generation: v.Generation})
		}
	}
	if undecided == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.timing.confirmTimeout())
	defer cancel() // also gives up on peers that a decided round no longer needs
	done := make(chan *ask, len(asked))
	for _, a := range asked {
		h.confirmations.wg.Go(func() {
			a.terms, a.err = h.askTerms(ctx, a.node, a.replicas)
			done <- a
		})
	}
	for range asked {
		a := <-done
		for i, g := range a.groups {
			t := tallies[g]
			t.outstanding--
			if a.err == nil && a.terms[i].exists && h.peers.Counted(a.node, a.replicas[i]) {
				if a.terms[i].term <= t.term {
					t.confirmations++
				} else {
					t.newer = max(t.newer, a.terms[i].term)
				}
			}
			if t.settle(g) {
				undecided--
			}
		}
		if undecided == 0 {
			return
		}
	}
}

// ask is one call of a round: to one node, about the replicas it has of the
// groups in the round.
type ask struct {
	node     partition.NodeID
	groups   []*Group
	replicas []storage.Replica
	terms    []termAnswer
	err      error
}

func (h *Host) askTerms(ctx context.Context, node partition.NodeID, replicas []storage.Replica) ([]termAnswer, error) {
	b, err := h.peers.Call(ctx, node, KindConfirm, encodeReplicas(replicas))
	if err != nil {
		return nil, err
	}
	terms, err := decodeTerms(b)
	if err == nil && len(terms) != len(replicas) {
		err = fmt.Errorf("%w: %d terms for %d replicas", errMessage, len(terms), len(replicas))
	}
	return terms, err
}

// handleConfirm is the voter's side: the current term of each replica named,
// and of no other generation of it.
func (h *Host) handleConfirm(_ context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	replicas, err := decodeReplicas(payload)
	if err != nil {
		return nil, err
	}
	terms := make([]termAnswer, len(replicas))
	for i, r := range replicas {
		if g := h.serving(r); g != nil {
			terms[i] = termAnswer{exists: true, term: g.raft.CurrentTerm()}
		}
	}
	return encodeTerms(terms), nil
}

// ballot reads, in the order that the proof above needs, what a round asks.
func (g *Group) ballot() (ballot, error) {
	lead := g.lead()
	if lead == nil || g.unusable() != nil {
		return ballot{}, errNotLeading
	}
	configuration := g.configuration()
	index := readIndexOf(g.raft.CommitIndex(), lead.index)
	if term := g.raft.CurrentTerm(); term != lead.term {
		return ballot{}, newerTerm{lead.term, term}
	}
	b := ballotOf(configuration, g.self, lead.term, index)
	if fault.On(fault.ReadUnconfirmed) {
		b.needed = 0
	}
	if fault.On(fault.VerifyLeader) {
		b.needed = 0
		return b, g.raft.VerifyLeader().Error()
	}
	return b, nil
}

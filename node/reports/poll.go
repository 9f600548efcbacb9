package reports

import (
	"slices"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

// PollRounds is how often a poll asks all members, each time only after all have
// answered the time before. The package comment says why once is not enough.
const PollRounds = 2

// Poll is what the members answered, round after round. It is pure, and not safe
// for concurrent use.
type Poll struct {
	Question Question
	// Members are all that must answer.
	Members []partition.NodeID

	absent  []partition.NodeID
	round   int
	answers []map[partition.NodeID]map[partition.ID]Base // by round
}

// NewPoll begins a poll of the ring's members.
func NewPoll(ring *control.State, partitions []partition.ID, removed []partition.NodeID) *Poll {
	p := &Poll{Members: ring.Members(), Question: Question{Partitions: partitions, Removed: removed}}
	for _, left := range ring.Removed() {
		p.Question.Epoch = max(p.Question.Epoch, left.Epoch)
	}
	for range PollRounds {
		p.answers = append(p.answers, map[partition.NodeID]map[partition.ID]Base{})
	}
	return p
}

// Reach notes who can be reached. Where a member can not, there is no use in
// asking the others: it is false.
func (p *Poll) Reach(reached func(partition.NodeID) bool) bool {
	p.absent = slices.DeleteFunc(slices.Clone(p.Members), reached)
	return len(p.absent) == 0
}

// Take notes a member's answer in the present round.
func (p *Poll) Take(from partition.NodeID, a Answer) {
	bases := make(map[partition.ID]Base, len(a.Bases))
	for _, b := range a.Bases {
		bases[b.Partition] = b
	}
	p.answers[p.round][from] = bases
}

// Next ends the round: the next one asks about those partitions only which all
// members have answered for. It is false if that was the last, or none is left.
func (p *Poll) Next() bool {
	p.Question.Partitions = slices.DeleteFunc(slices.Clone(p.Question.Partitions), func(id partition.ID) bool {
		return len(p.missing(p.round, id)) > 0
	})
	if p.round == PollRounds-1 || len(p.Question.Partitions) == 0 || len(p.Members) == 0 {
		return false
	}
	p.round++
	return true
}

func (p *Poll) missing(round int, id partition.ID) (silent []partition.NodeID) {
	if len(p.absent) > 0 {
		return p.absent
	}
	for _, member := range p.Members {
		if _, ok := p.answers[round][member][id]; !ok {
			silent = append(silent, member)
		}
	}
	return silent
}

// Floor is the floor that the answers permit for a partition: 0 if there is
// none. heldBackBy names those who keep it there: who has not answered, else
// who promised the least.
func (p *Poll) Floor(id partition.ID) (floor uint64, heldBackBy []partition.NodeID) {
	for round := range p.answers {
		if silent := p.missing(round, id); len(silent) > 0 {
			return 0, silent
		}
	}
	floor = ^uint64(0)
	for _, member := range p.Members {
		lowest := ^uint64(0)
		for _, answers := range p.answers {
			lowest = min(lowest, answers[member][id].Undecided)
		}
		if lowest < floor {
			floor, heldBackBy = lowest, nil
		}
		if lowest == floor {
			heldBackBy = append(heldBackBy, member)
		}
	}
	if len(p.Members) == 0 {
		return 0, nil
	}
	return floor, heldBackBy
}

// Forfeitable reports whether no member holds undecided writes that the removed
// node has accepted: what of them is not promoted by now, nobody can promote.
func (p *Poll) Forfeitable(id partition.ID, node partition.NodeID) bool {
	bit, asked := slices.BinarySearch(p.Question.Removed, node)
	if !asked || len(p.Members) == 0 {
		return false
	}
	for round, answers := range p.answers {
		if len(p.missing(round, id)) > 0 {
			return false
		}
		for _, member := range p.Members {
			if answers[member][id].Holds&(1<<bit) != 0 {
				return false
			}
		}
	}
	return true
}

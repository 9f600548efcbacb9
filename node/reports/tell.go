package reports

import (
	"context"
	"slices"
	"sync"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

// ownReport is what this member has to tell, and since when.
type ownReport struct {
	sequence uint64
	epoch    uint64 // of the ring
	entries  []Entry
	changed  []uint64 // by entry: the sequence that it changed with
}

// set takes up the ring's epoch and the present state of the partitions, which are
// numbered without gaps.
func (o *ownReport) set(epoch uint64, entries []Entry) {
	next := o.sequence + 1
	if o.epoch != epoch {
		o.epoch, o.sequence = epoch, next
	}
	for i, e := range entries {
		switch {
		case i == len(o.entries):
			o.entries, o.changed = append(o.entries, e), append(o.changed, next)
		case o.entries[i] != e:
			o.entries[i], o.changed[i] = e, next
		default:
			continue
		}
		o.sequence = next
	}
}

// since is what has changed after that sequence; everything, if it is 0.
func (o *ownReport) since(start, after uint64) Report {
	r := Report{Start: start, Sequence: o.sequence, After: after, Epoch: o.epoch}
	for i, e := range o.entries {
		if o.changed[i] > after {
			r.Entries = append(r.Entries, e)
		}
	}
	return r
}

// tell sends each member that can be reached what it has not taken yet. One
// report is on its way to each at a time. What is told was made durable before:
// others drop it from session tokens.
func (r *Reporter) tell(ctx context.Context, calls *sync.WaitGroup) {
	ring := r.c.Ring()
	if !ring.Placed() {
		return
	}
	entries, err := r.entries(ring)
	if err != nil {
		return // closing, or the disk has failed
	}
	alive := r.c.Alive()
	members := ring.Members()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.keep(members)
	for node := range r.peers {
		if !slices.Contains(members, node) {
			delete(r.peers, node)
		}
	}
	before := r.own.sequence
	r.own.set(ring.Epoch, entries)
	if r.table.hear(r.c.Self, r.own.since(r.c.Start(), 0)); r.own.sequence != before {
		r.told.Add(1)
	}
	for _, node := range members {
		if node == r.c.Self || !alive[node] {
			continue
		}
		to := r.peers[node]
		if to == nil {
			to = &peer{}
			r.peers[node] = to
		}
		if to.busy || to.acked == r.own.sequence {
			continue
		}
		to.busy = true
		report, lost := r.own.since(r.c.Start(), to.acked), to.lost
		calls.Go(func() { r.send(ctx, node, to, report, lost) })
	}
}

func (r *Reporter) send(ctx context.Context, node partition.NodeID, to *peer, report Report, lost uint64) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, err := r.c.Peers.Call(ctx, node, Kind, report.encode())
	r.mu.Lock()
	defer r.mu.Unlock()
	to.busy = false
	switch {
	case err != nil || len(answer) != 2 || answer[0] != messageVersion:
		// Taken or not, the next one begins where this one did.
	case to.lost != lost:
		// It has started again since, and may have answered before that.
	case answer[1] == reportWhole:
		to.acked = 0
	case answer[1] == reportTaken:
		to.acked = report.Sequence
	}
}

// entries are what this member can tell of the ring's partitions, in their order.
func (r *Reporter) entries(ring *control.State) ([]Entry, error) {
	logs := make([]Tentative, len(ring.Partitions))
	entries := make([]Entry, len(ring.Partitions))
	for p := range logs {
		var err error
		if logs[p], err = r.c.Tentative(partition.ID(p)); err != nil {
			return nil, err
		}
		entries[p].Partition = partition.ID(p)
		if replica := r.c.Replica(partition.ID(p)); replica != nil {
			logs[p].Hear(replica.Applied())
			entries[p].Generation, entries[p].Durable = replica.Generation(), replica.Durable()
		}
	}
	r.mu.Lock()
	covers := r.table.heardFromAll(ring, r.c.Self)
	r.mu.Unlock()
	if err := r.c.SaveHeard(covers); err != nil {
		return nil, err
	}
	for p, log := range logs {
		entries[p].Heard, _ = log.Saved()
	}
	return entries, nil
}

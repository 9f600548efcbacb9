package reports

import (
	"context"
	"slices"
	"sync"

	"github.com/capstan-kv/capstan/partition"
)

// ownReport is what this member has to tell, and since when.
type ownReport struct {
	sequence uint64
	entries  []Entry
	changed  []uint64 // by entry: the sequence that it changed with
}

// set takes up the present state of the partitions, which are numbered without gaps.
func (o *ownReport) set(entries []Entry) {
	next := o.sequence + 1
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
	r := Report{Start: start, Sequence: o.sequence, After: after}
	for i, e := range o.entries {
		if o.changed[i] > after {
			r.Entries = append(r.Entries, e)
		}
	}
	return r
}

// tell sends each member that can be reached what it has not taken yet. One
// report is on its way to each at a time.
func (r *Reporter) tell(ctx context.Context, calls *sync.WaitGroup) {
	ring := r.c.Ring()
	if !ring.Placed() {
		return
	}
	entries := make([]Entry, 0, len(ring.Partitions))
	for p := range ring.Partitions {
		e, err := r.entry(partition.ID(p))
		if err != nil {
			return // closing
		}
		entries = append(entries, e)
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
	r.own.set(entries)
	if r.table.hear(r.c.Self, r.own.since(r.c.Start, 0)); r.own.sequence != before {
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
		report, lost := r.own.since(r.c.Start, to.acked), to.lost
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

func (r *Reporter) entry(p partition.ID) (Entry, error) {
	t, err := r.c.Tentative(p)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Partition: p}
	if replica := r.c.Replica(p); replica != nil {
		t.Hear(replica.Applied())
		e.Generation, e.Durable = replica.Generation(), replica.Durable()
	}
	e.Heard = t.Heard()
	return e, nil
}

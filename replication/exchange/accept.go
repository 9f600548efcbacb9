package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Write is an eventual write that this node is asked to accept.
type Write struct {
	Partition partition.ID
	Key       []byte
	Value     []byte // none for a delete
	Delete    bool
	// Acks is how many nodes have it on disk before Accept returns; 0 means 1,
	// and the replication factor is the most.
	Acks int
	// Base is the highest committed index of the partition that the session, or
	// the node that passed the write on, has heard of. This node may know of a
	// higher one.
	Base uint64
	// After is the highest timestamp that the session has seen: the write's own
	// is above it.
	After hlc.Timestamp
}

// Accepted is an eventual write as this node has accepted it, for ever.
type Accepted struct {
	Dot       storage.Dot
	Base      uint64
	Timestamp hlc.Timestamp
	// Held are the nodes known to have it on disk; none if this node's own disk
	// failed, or did not answer in time.
	Held []partition.NodeID
}

// Accept makes w a tentative write and returns when w.Acks nodes have it on
// disk. It needs no leader and no quorum: with Acks 1 it is never refused
// because of the network. The caller must not change Key and Value any more.
//
// Errors are *[replication.Error]. With outcome NotApplied nothing was stored
// anywhere. With outcome Unknown fewer nodes than asked for are known to have
// the write, perhaps none; it may be committed all the same, and the Accepted
// that comes with the error names it, so that its fate can be asked for. If none
// is known to have it, it may also be that nobody ever will: then its fate stays
// pending, and no session may wait for it.
func (x *Exchange) Accept(ctx context.Context, w Write) (Accepted, error) {
	if !x.enter() {
		return Accepted{}, closed()
	}
	defer x.leave()
	a, err := x.accept(ctx, w)
	if err != nil {
		x.emit(WriteRefused{w.Partition, err})
		return a, err
	}
	return a, nil
}

func (x *Exchange) accept(ctx context.Context, w Write) (Accepted, error) {
	pl, order, err := x.admit(ctx, &w)
	if err != nil {
		return Accepted{}, err
	}
	// Asked before the write gets a dot, which would stay unused.
	if err := cmp.Or(x.room(w.Delete), pl.log.Room(len(w.Key), len(w.Value))); err != nil {
		return Accepted{}, storeError(err)
	}
	r := x.cfg.Replica(w.Partition)
	if r != nil {
		applied, _ := r.Applied()
		w.Base = max(w.Base, applied)
	}
	draft := pl.log.NextDot(w.Base)
	var h holding
	defer func() {
		if h.late == nil {
			draft.Done()
			return
		}
		// The base counts until it is known whether the write was stored.
		x.spawn(func() {
			<-h.late //nolint:errcheck // the request has ended: nobody is there to be told
			draft.Done()
		})
	}()
	// The base comes before the timestamp: a version that comes up in between is
	// one that the write has not heard of, and still it is not below it.
	after, err := pl.above(r, w)
	if err != nil {
		draft.GiveBack()
		return Accepted{}, storeError(err)
	}
	timestamp := x.cfg.Clock.NowAfter(after)
	if timestamp >= hlc.Horizon {
		draft.GiveBack()
		return Accepted{}, bad(replication.BadOption, fmt.Sprintf("this write would bear a timestamp beyond %v: a clock is broken, here or where the key was written last", hlc.Horizon.Time().UTC()),
			"set the clocks; a linearizable write or delete of the key replaces its timestamp")
	}
	t := storage.TentativeWrite{Hint: r == nil, Tentative: storage.Tentative{
		Dot: draft.Dot, Base: draft.Base, Timestamp: timestamp,
		Delete: w.Delete, Key: w.Key, Bytes: w.Value,
	}}
	h = holding{place: pl, write: t, order: order, acks: w.Acks}
	held, failed := h.run(ctx)
	a := Accepted{Dot: t.Dot, Base: t.Base, Timestamp: t.Timestamp, Held: held}
	if failed != nil {
		if h.unborn {
			draft.GiveBack()
		}
		if failed.Outcome == replication.NotApplied {
			return Accepted{}, failed
		}
		return a, failed
	}
	x.emit(WriteAccepted{w.Partition, len(held), t.Hint})
	return a, nil
}

// admit refuses what can not be accepted, and chooses who is to hold the rest.
func (x *Exchange) admit(ctx context.Context, w *Write) (*place, []partition.NodeID, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, &replication.Error{Reason: replication.Deadline, Outcome: replication.NotApplied, Err: err,
			Message: "out of time before the write was accepted", Try: "retry with a longer timeout"}
	}
	ring := x.cfg.Ring()
	if ring == nil {
		return nil, nil, &replication.Error{Reason: replication.NoReplica, Outcome: replication.NotApplied,
			Message: "this node does not know yet where partitions are", Try: "retry when the cluster has formed"}
	}
	if int64(w.Partition) >= int64(ring.Partitions()) {
		return nil, nil, bad(replication.BadOption, fmt.Sprintf("there is no partition %d", w.Partition), "")
	}
	replicas := ring.Replicas(w.Partition)
	if w.Acks == 0 {
		w.Acks = 1
	}
	switch {
	case len(w.Key) == 0 || len(w.Key) > storage.MaxKeyBytes:
		return nil, nil, bad(replication.BadKey, fmt.Sprintf("a key of %d bytes; 1 to %d are possible", len(w.Key), storage.MaxKeyBytes), "")
	case len(w.Value) > storage.MaxValueBytes:
		return nil, nil, bad(replication.ValueTooLarge, fmt.Sprintf("a value of %d bytes; at most %d are possible", len(w.Value), storage.MaxValueBytes), "")
	case w.Delete && len(w.Value) > 0:
		return nil, nil, bad(replication.BadOption, "a delete has no value", "")
	case w.Acks < 0 || w.Acks > max(ring.ReplicationFactor(), 1):
		return nil, nil, bad(replication.BadOption, fmt.Sprintf("acks %d; a partition has %d replicas", w.Acks, ring.ReplicationFactor()),
			fmt.Sprintf("ask for 1 to %d acks", max(ring.ReplicationFactor(), 1)))
	}
	order := choose(surroundings{
		self: x.cfg.Self, replica: x.cfg.Replica(w.Partition) != nil, leader: x.cfg.Leader(w.Partition),
		replicas: replicas, nodes: ring.Nodes(), reachable: x.reachable,
	})
	if len(order) < w.Acks {
		return nil, nil, &replication.Error{Reason: replication.TooFewAcks, Outcome: replication.NotApplied,
			Reachable: len(order), Needed: w.Acks,
			Message: fmt.Sprintf("too few nodes for acks %d: %d can be reached", w.Acks, len(order)),
			Try:     fmt.Sprintf("retry when more nodes can be reached, or with acks %d", len(order))}
	}
	pl, err := x.place(w.Partition)
	if err != nil {
		return nil, nil, storeError(err)
	}
	return pl, order, nil
}

// above is what the write's timestamp has to be above: the session's highest,
// and every version of the key that this node holds. The log is asked first: what
// leaves it is in the state by then.
func (pl *place) above(r Replica, w Write) (hlc.Timestamp, error) {
	newest := max(w.After, pl.log.Newest(w.Key))
	if r == nil {
		return newest, nil
	}
	committed, err := r.Newest(w.Key)
	return max(newest, committed), err
}

func bad(reason replication.Reason, message, try string) *replication.Error {
	return &replication.Error{Reason: reason, Outcome: replication.NotApplied, Message: message, Try: try}
}

// storeError says why the tentative log of this node did not take a write.
func storeError(err error) *replication.Error {
	if told := (*replication.Error)(nil); errors.As(err, &told) {
		return told
	}
	e := &replication.Error{Reason: replication.NoReplica, Outcome: replication.NotApplied, Err: err,
		Message: "this node can not store the write", Try: "retry at another node"}
	switch {
	case errors.Is(err, storage.ErrTentativeFull):
		e.Reason = replication.DiskFull
		e.Message = "this node holds as many undecided eventual writes as it may"
		e.Try = "retry when partitions have leaders again, or at another node"
	case errors.Is(err, storage.ErrLogClosed):
		e.Reason = replication.Stopping
	case errors.Is(err, storage.ErrLogFailed):
		e.Outcome = replication.Unknown // it may be on the disk, and found there
	}
	return e
}

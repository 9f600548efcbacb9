package storage

import (
	"errors"
	"fmt"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// applyOther takes up a command that is not a single write.
func (r *ReplicaState) applyOther(index uint64, o *otherCommand, result *CommandResult) error {
	switch o.format {
	case promotionFormat:
		promoted, err := r.applyPromotion(index, &o.promotion)
		result.Promoted = promoted
		return err
	case floorFormat:
		return r.applyFloor(index, o.floor, o.collect)
	case checkFormat:
		result.Version.Index = index
		if r.onCheck != nil {
			r.checks = append(r.checks, o.check)
		}
		return nil
	case forfeitFormat:
		if _, done := r.change.forfeited[o.forfeit]; done {
			return nil
		}
		r.change.forfeit(o.forfeit, index)
		return r.setLedger(append([]byte{kindForfeited}, o.forfeit...), encodeForfeited(index))
	}
	return fmt.Errorf("command of unknown format %d", o.format)
}

func (r *ReplicaState) applyPromotion(index uint64, p *Promotion) (*PromotionResult, error) {
	result := &PromotionResult{Index: index, Fates: make([]FateOf, len(p.Writes))}
	decided := make([]Dot, 0, len(p.Writes)) // by this promotion
	if c := &r.change; p.Lived > c.lived {
		c.lived, c.changed = p.Lived, true
	}
	for i := range p.Writes {
		t := &p.Writes[i]
		f, now, err := r.promote(index, t, p)
		if err != nil {
			return nil, fmt.Errorf("promoting %v: %w", t.Dot, err)
		}
		result.Fates[i] = FateOf{Dot: t.Dot, Fate: f}
		if now {
			decided = append(decided, t.Dot)
		}
	}
	if err := r.pageFates(decided, p.limits.fates); err != nil {
		return nil, err
	}
	return result, r.dropConflicts(p)
}

// Takes reports whether t may be a write of this partition: whether its key belongs
// here, and its timestamp is one that a clock gives. Each replica answers the same:
// it asks neither a clock nor a setting of the node. A write that is not taken is
// lost when it is promoted.
func (r *ReplicaState) Takes(t *Tentative) bool {
	return TakesWrite(r.replica, int(r.partitions.Load()), t)
}

// TakesWrite is [ReplicaState.Takes] without a replica here; partitions 0 says that
// their number is not known.
func TakesWrite(r Replica, partitions int, t *Tentative) bool {
	p, ok := r.Group.Partition()
	return t.Timestamp < hlc.Horizon && (partitions == 0 || !ok || partition.Of(t.Key, partitions) == p)
}

// SetPartitions says how many partitions the cluster has, which never changes. Call
// it before entries are applied.
func (r *ReplicaState) SetPartitions(n int) { r.partitions.Store(int64(n)) }

// promote takes up one write, and says whether that has decided it.
func (r *ReplicaState) promote(index uint64, t *Tentative, p *Promotion) (f Fate, decided bool, err error) {
	c := &r.change
	if c.promoted.Has(t.Dot) && !fault.On(fault.PromoteTwice) {
		record, err := r.ledgerRecord(fateKey(t.Dot))
		if err != nil {
			return Fate{}, false, err
		}
		f, err := r.knownFate(t.Dot, record)
		return f, false, err
	}
	if at, lost := c.forfeited[t.Dot.Node]; lost {
		return Fate{Kind: FateLost, Index: at}, false, nil
	}
	if !fault.On(fault.ForgetDot) {
		if err := c.addDot(t.Dot, p.limits.dotSpans); errors.Is(err, ErrDotSetFull) {
			return Fate{Kind: FatePending}, false, nil
		} else if err != nil {
			return Fate{}, false, err
		}
	}
	if !r.Takes(t) {
		f = Fate{Kind: FateLost, Index: index}
		return f, true, r.setFate(t.Dot, f)
	}
	held, closer, err := r.held(t.Key)
	if err != nil {
		return Fate{}, false, err
	}
	f, err = r.decide(index, t, held, p.Now)
	if closer != nil {
		err = errors.Join(err, closer.Close())
	}
	if err == nil {
		err = r.setFate(t.Dot, f)
	}
	return f, true, err
}

// decide does what Decide says.
func (r *ReplicaState) decide(index uint64, t *Tentative, held *Value, now hlc.Timestamp) (Fate, error) {
	if held.collectable(r.change.floor) {
		held = nil // so that all replicas do the same, be it collected or not
	}
	d := Decide(held, r.change.floor, t)
	if t.Base >= index {
		// It can not have heard of an index before it was committed. Whatever
		// made it, it must not pass for a write that has heard of everything.
		d = Decision{Superseded: CauseStaleBase}
	}
	switch {
	case d.Superseded != 0:
		c := Conflict{
			Key: t.Key, Value: t.Bytes, Losing: t.Version(0), Time: now,
			Delete: t.Delete, Cause: d.Superseded, Base: t.Base,
		}
		c.Winning = d.supersededBy(held, t)
		return Fate{FateSuperseded, c.Winning, index}, r.addConflict(&c)
	case !d.Wins: // it is what the key holds
		return Fate{FateCommitted, held.Version, held.Version.Index}, nil
	}
	v := CommittedBy(t, index, held)
	if d.ListHeld {
		if err := r.addConflict(&Conflict{
			Key: t.Key, Value: held.Bytes, Losing: held.Version, Winning: v.Version, Time: now,
			Delete: held.Tombstone, Cause: CauseOlder, Base: held.Base,
		}); err != nil {
			return Fate{}, err
		}
	}
	return Fate{FateCommitted, v.Version, index}, r.writeValue(t.Key, &v)
}

package exchange

import (
	"slices"

	"errors"

	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// store takes writes from another holder into the tentative log, and gives
// those that were not there. With statusDone each of them is on disk here, or
// was decided, or its accepting node was removed; if that is so of all of them,
// the status says so.
func (pl *place) store(writes []storage.TentativeWrite) (s status, fresh []storage.TentativeWrite) {
	r := pl.x.cfg.Replica(pl.partition)
	var newest hlc.Timestamp
	forfeited := 0
	keep := writes[:0]
	for _, w := range writes {
		newest = max(newest, w.Timestamp)
		switch {
		case r == nil && pl.knows(w.Dot):
		case r != nil && r.PromotedHas(w.Dot):
		case r != nil && r.Forfeited(w.Dot.Node):
			forfeited++
		default:
			if w.Hint = r == nil; !pl.log.Holds(w.Dot) {
				fresh = append(fresh, w)
			}
			keep = append(keep, w) // to be compared, if it is held
		}
	}
	// What this node accepts from now on is above what it has received, as far
	// as the clock's bound allows.
	pl.x.cfg.Clock.Observe(newest)
	if len(keep) == 0 {
		if forfeited == len(writes) {
			return statusForfeited, nil
		}
		return statusDone, nil
	}
	if len(fresh) > 0 && pl.x.room(!slices.ContainsFunc(fresh, func(w storage.TentativeWrite) bool { return !w.Delete })) != nil {
		return statusFull, nil
	}
	if err := pl.keep(keep); err != nil {
		return statusOf(err), nil
	}
	return statusDone, fresh
}

// knows reports whether the write was said to be decided.
func (pl *place) knows(d storage.Dot) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.answered.Has(d)
}

// keep puts writes into the tentative log.
func (pl *place) keep(writes []storage.TentativeWrite) error {
	if writes[0].Hint && fault.On(fault.DropHint) {
		return nil
	}
	err := pl.log.Append(writes)
	if errors.Is(err, storage.ErrTentativeDot) && len(writes) > 1 {
		// One of them is not what this node holds under its dot. It must not
		// keep the others out.
		for i := range writes {
			if one := pl.keep(writes[i : i+1]); one != nil && !errors.Is(one, storage.ErrTentativeDot) {
				return one
			}
		}
		return nil
	}
	if errors.Is(err, storage.ErrTentativeDot) {
		pl.x.emit(LogFailed{pl.partition, err})
	}
	if err != nil {
		return err
	}
	pl.came(writes)
	pl.settleApplied(writes)
	return nil
}

// settleApplied settles what was promoted while it was on its way into the log.
func (pl *place) settleApplied(writes []storage.TentativeWrite) {
	r := pl.x.cfg.Replica(pl.partition)
	var late []storage.Dot
	for i := range writes {
		if decidedBy(r, writes[i].Dot) {
			late = append(late, writes[i].Dot)
		}
	}
	if len(late) > 0 {
		index, _ := r.Applied() // asked after: it covers what was found
		pl.settle(late, index)
	}
}

func statusOf(err error) status {
	if errors.Is(err, storage.ErrTentativeFull) {
		return statusFull
	}
	return statusFailed
}

package storage

import (
	"encoding/binary"
	"fmt"
)

// MaxFates is how many fates a partition keeps at least. Whoever asks for the fate
// of a write that was decided before the last so many may hear that it has
// expired: they are dropped by pages, one for each promotion, of at most
// MaxPromotionWrites. Some 100 bytes each, on disk only.
const MaxFates = 64 << 10

func fateKey(d Dot) []byte { return appendDotKey([]byte{kindFate}, d) }

func fatePageKey(page uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindFatePage}, page)
}

// setFate records a fate. The dot goes onto the command's page.
func (r *ReplicaState) setFate(d Dot, f Fate) error { return r.setLedger(fateKey(d), encodeFate(f)) }

// pageFates records in which order fates were decided, and drops the oldest
// pages beyond the bound. So dropping costs a read a page, not one a fate.
func (r *ReplicaState) pageFates(dots []Dot, most uint64) error {
	if len(dots) == 0 {
		return nil
	}
	c := &r.change
	if err := r.setLedger(fatePageKey(c.nextPage), encodeFatePage(dots)); err != nil {
		return err
	}
	c.nextPage++
	c.fates += uint64(len(dots))
	for c.fates > most && c.firstPage < c.nextPage {
		record, err := r.ledgerRecord(fatePageKey(c.firstPage))
		if err != nil {
			return err
		}
		oldest, err := decodeFatePage(record, &r.nodes)
		if err != nil {
			return fmt.Errorf("fates, page %d: %w", c.firstPage, err)
		}
		for _, d := range oldest {
			if err := r.deleteLedger(fateKey(d)); err != nil {
				return err
			}
		}
		if err := r.deleteLedger(fatePageKey(c.firstPage)); err != nil {
			return err
		}
		c.firstPage++
		c.fates -= min(c.fates, uint64(len(oldest)))
	}
	return nil
}

// knownFate is the fate of a promoted write, by its record if there is one.
func (r *ReplicaState) knownFate(d Dot, record []byte) (Fate, error) {
	if record == nil {
		return Fate{Kind: FateExpired}, nil
	}
	f, err := decodeFate(d, record, &r.nodes)
	if err != nil {
		return Fate{}, r.damaged(fmt.Errorf("%v, fate of %v: %w", r.replica, d, err))
	}
	return f, nil
}

// Fate tells what became of an eventual write of this partition, as far as it
// was applied here: of a dot that no node has given out it is pending, too.
func (r *ReplicaState) Fate(d Dot) (Fate, error) {
	if err := d.check(); err != nil {
		return Fate{}, err
	}
	if err := r.state.enter(); err != nil {
		return Fate{}, err
	}
	defer r.state.leave()
	l := r.ledger.Load()
	if !l.promoted.Has(d) {
		if index, lost := l.forfeited[d.Node]; lost {
			return Fate{Kind: FateLost, Index: index}, nil
		}
		return Fate{Kind: FatePending}, nil
	}
	// The record is at least as new as the ledger.
	record, err := r.storedRecord(fateKey(d))
	if r.destroyed.Load() {
		return Fate{}, ErrReplicaDestroyed
	}
	if err != nil {
		return Fate{}, err
	}
	return r.knownFate(d, record)
}

// DecidedAt is the log index at which the write was decided, or a later one if
// that is no longer known. False while it is pending.
func (r *ReplicaState) DecidedAt(d Dot) (index uint64, decided bool) {
	f, err := r.Fate(d)
	if err != nil {
		// Which can only be so after it was decided, or the replica has failed.
		f = Fate{Kind: FateExpired}
		if l := r.ledger.Load(); !l.promoted.Has(d) {
			return 0, false
		}
	}
	switch f.Kind {
	case FatePending:
		return 0, false
	case FateExpired:
		return r.ledger.Load().applied.index, true
	}
	return f.Index, true
}

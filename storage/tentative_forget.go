package storage

// tentativeEraseChunk bounds one batch of deletions, some 100 bytes a write.
const tentativeEraseChunk = 8 << 10

// Settle takes writes out of the index whose promotion this node's own replica
// has applied, at index or below: they are answered from the applied state from
// now on, and no longer are part of the backlog. The caller has made the new
// state visible before, see [TentativeLog]. Dots that are not held are skipped;
// one that is just being written is settled once it is.
//
// It touches memory only. The records stay until [TentativeLog.EraseSettled]
// says that the state is durable: the state database is not synced on the way,
// and a power cut would take the applied write with it, while the log entry
// that brings it back is not known to be committed before a leader is heard.
// In a cut that may be long after. With its record the write is just tentative
// again, and readable.
func (t *TentativeLog) Settle(dots []Dot, index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range dots {
		if i, ok := t.index.find(d); ok {
			t.settled[i.dot] = tentativeSettled{index, i.tentativeVersion, i.cost()}
			t.index.remove(i)
		} else if p := t.pending[d]; p != nil {
			p.settledAt = max(p.settledAt, index)
		}
	}
}

// EraseSettled removes the records of the writes that were settled at or below
// index, which the replica's state holds durably.
//
// The removal is not synced. Should it come back by a crash, the write is held
// again, though it is decided. That is harmless: it can not win over the state
// it is part of; handed in again, it is found among the promoted dots and does
// nothing. At start the caller settles what that record contains.
func (t *TentativeLog) EraseSettled(index uint64) error {
	return t.erase(&tentativeOp{}, t.takeSettled(index))
}

// Forget removes writes that this node holds as hints and whose fate it was
// told, decided at index or below: promoted, superseded or lost. In the same
// batch it raises the fate floor to index: this node could show these writes
// until now, so what it reads from elsewhere must not be older than their fate.
//
// It is not synced. By a crash both may come back, the writes and the lower
// floor, but never one without the other; the fate is then told again.
func (t *TentativeLog) Forget(dots []Dot, index uint64) error {
	t.mu.RLock()
	erase := make([]tentativeErase, 0, len(dots))
	for _, d := range dots {
		if i, ok := t.index.find(d); ok {
			erase = append(erase, tentativeErase{i.dot, i.bytes > 0})
		} else if s, ok := t.settled[d]; ok {
			erase = append(erase, tentativeErase{d, s.version.bytes > 0})
		} else if p := t.pending[d]; p != nil { // stands before us in the queue
			erase = append(erase, tentativeErase{d, len(p.write.Bytes) > 0})
		}
	}
	t.mu.RUnlock()
	if len(erase) == 0 {
		return nil
	}
	return t.erase(&tentativeOp{fate: index}, erase)
}

// HandOver is called when this node ceases to have a replica whose state has
// applied index, before that state goes: from then on the node is a holder of
// hints. What is held stays. What was settled is in the state of other replicas
// that have applied as much; so the fate floor is raised to that, durably, and
// the records go.
func (t *TentativeLog) HandOver(index uint64) error {
	t.mu.RLock()
	for _, s := range t.settled {
		index = max(index, s.index)
	}
	t.mu.RUnlock()
	return t.erase(&tentativeOp{fate: index, sync: true}, t.takeSettled(index))
}

func (t *TentativeLog) takeSettled(index uint64) []tentativeErase {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var erase []tentativeErase
	for d, s := range t.settled {
		if s.index <= index {
			erase = append(erase, tentativeErase{d, s.version.bytes > 0})
		}
	}
	return erase
}

// erase writes op with the deletions, in several batches if they are many. The
// fate floor goes with the first: to raise it early is safe.
func (t *TentativeLog) erase(op *tentativeOp, erase []tentativeErase) error {
	if err := t.log.enter(); err != nil {
		return err
	}
	defer t.log.leave()
	for {
		n := min(len(erase), tentativeEraseChunk)
		op.erase, erase = erase[:n], erase[n:]
		if n == 0 && op.fate == 0 {
			return nil
		}
		t.mu.Lock()
		if err := t.submit(op); err != nil {
			return err
		}
		op = &tentativeOp{}
	}
}

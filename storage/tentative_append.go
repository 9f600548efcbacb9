package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// MaxTentativeAppendBytes bounds one Append: a batch is held in memory
	// whole. Nobody sends more in a message.
	MaxTentativeAppendBytes = 16 << 20
	// tentativeBatchBytes is where calls that came while another was written
	// are parted into several batches. Each call is written whole.
	tentativeBatchBytes = 4 << 20
)

// tentativeOp is one call's part of a batch.
type tentativeOp struct {
	add   []*TentativeWrite
	erase []tentativeErase
	fate  uint64 // raises the fate floor; 0 for no change
	sync  bool
	cost  tentativeCost // of add

	turn chan struct{} // closed when the call is done, or is to lead
	lead bool
	err  error
}

// tentativeErase names a write whose records go.
type tentativeErase struct {
	dot      Dot
	hasValue bool
}

// Append stores writes, all or none, and returns when they are durable. Calls
// that come while another is being written share the next batch; with the other
// logs of the database they share the fsync.
//
// A write whose dot is held already, or is on its way to the disk, is not
// stored a second time and is no error: those who hand writes around may do so
// as often as they like. Not even then does Append return before it is durable.
// A write that was promoted and erased since would be stored anew: the caller
// leaves out what the partition's record of promoted dots contains. If one slips
// through it is handed in for promotion, found there, and settled.
//
// [ErrTentativeFull] and [ErrTentativeDot] mean that nothing was stored.
func (t *TentativeLog) Append(writes []TentativeWrite) error {
	if len(writes) == 0 {
		return nil
	}
	if err := t.log.enter(); err != nil {
		return err
	}
	defer t.log.leave()
	own := make([]TentativeWrite, len(writes))
	var size int64
	for n := range writes {
		own[n] = writes[n]
		w := &own[n]
		if err := w.check(); err != nil {
			return err
		}
		w.Dot.Node = t.nodes.name([]byte(w.Dot.Node))
		if size += w.cost().disk; size > MaxTentativeAppendBytes {
			return fmt.Errorf("tentative writes of more than %d bytes in one call", MaxTentativeAppendBytes)
		}
	}
	op := &tentativeOp{sync: true}
	t.mu.Lock()
	wait, err := t.admit(op, own)
	if err == nil && len(op.add) > 0 {
		err = t.log.tentative.reserve(op.cost)
	}
	if err != nil || !wait {
		t.mu.Unlock()
		return err
	}
	for _, w := range op.add {
		t.Hear(w.Base)
		t.pending[w.Dot] = &tentativePending{write: w}
	}
	return t.submit(op)
}

// admit finds out which of the writes are new. It says whether the call has to
// wait for the disk: also for a write that is another call's, which stands
// before this one in the queue.
func (t *TentativeLog) admit(op *tentativeOp, writes []TentativeWrite) (wait bool, err error) {
	var fresh map[Dot]*TentativeWrite
	for n := range writes {
		w := &writes[n]
		var held tentativeVersion
		key := string(w.Key)
		if i, ok := t.index.find(w.Dot); ok {
			held, key = i.tentativeVersion, i.of.key
		} else if s, ok := t.settled[w.Dot]; ok {
			held = s.version
		} else if p, ok := t.pending[w.Dot]; ok {
			held, key, wait = p.write.version(), string(p.write.Key), true
		} else if f, ok := fresh[w.Dot]; ok {
			held, key = f.version(), string(f.Key)
		} else {
			if fresh == nil {
				fresh = make(map[Dot]*TentativeWrite, len(writes)-n)
			}
			fresh[w.Dot] = w
			op.add, wait = append(op.add, w), true
			op.cost.add(w.cost())
			continue
		}
		held.hint = w.Hint // each holder's own
		if held != w.version() || key != string(w.Key) {
			return false, fmt.Errorf("%w: %s", ErrTentativeDot, w.Dot)
		}
	}
	return wait, nil
}

// submit has op written and waits for it. It is called with the lock held and
// gives it back.
//
// Whoever comes while nobody writes leads: it writes its own and what stands in
// the queue, and then hands the lead to the first of those who came meanwhile.
// So batches follow each other, each is encoded once, and what is written later
// never is overtaken by what was written before. The queue is as long as there
// are callers, all of whom wait.
func (t *TentativeLog) submit(op *tentativeOp) error {
	op.turn = make(chan struct{})
	t.queue = append(t.queue, op)
	if t.writing {
		t.mu.Unlock()
		<-op.turn
		if !op.lead {
			return op.err
		}
		t.mu.Lock()
	}
	t.writing = true
	ops := t.take()
	heard, fate, durability := t.heardSaved, t.fateFloor, pebble.NoSync
	again := false // the fate floor may be in memory only, and is asked to be durable
	for _, o := range ops {
		fate = max(fate, o.fate)
		if o.sync {
			durability = pebble.Sync
			heard = max(heard, t.heard.Load())
			again = again || o.fate > 0
		}
	}
	raised := tentativeIndexes{}
	if heard > t.heardSaved { // with a sync only: heardSaved is what a report may rest on
		raised[tentativeKindHeard] = heard
	}
	if fate > t.fateFloor || again {
		raised[tentativeKindFate] = fate
	}
	t.mu.Unlock()
	err := t.write(ops, raised, durability)
	t.mu.Lock()
	if err == nil {
		t.heardSaved, t.fateFloor = max(t.heardSaved, heard), fate // SaveHeard may have come further
		t.Hear(fate)
	}
	for _, o := range ops {
		t.finish(o, err)
	}
	var next *tentativeOp
	if t.writing = len(t.queue) > 0; t.writing {
		next = t.queue[0]
		next.lead = true
	}
	t.mu.Unlock()
	for _, o := range ops {
		if o != op {
			close(o.turn)
		}
	}
	if next != nil {
		close(next.turn)
	}
	return err
}

// take is the queue's front, as much as one batch should hold.
func (t *TentativeLog) take() []*tentativeOp {
	n, size := 0, int64(0)
	for n < len(t.queue) && (n == 0 || size+t.queue[n].cost.disk <= tentativeBatchBytes) {
		size += t.queue[n].cost.disk
		n++
	}
	ops := t.queue[:n:n]
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	}
	return ops
}

// tentativeIndexes are the index records to write, by kind.
type tentativeIndexes map[byte]uint64

func (t *TentativeLog) write(ops []*tentativeOp, raised tentativeIndexes, o *pebble.WriteOptions) error {
	size := int64(0)
	for _, o := range ops {
		size += o.cost.disk + int64(len(o.add)*32+len(o.erase)*80)
	}
	b := t.log.db.NewBatchWithSize(int(size) + 64)
	if err := t.encode(b, ops, raised); err != nil {
		return errors.Join(err, b.Close())
	}
	if b.Empty() { // what its callers wait for was written before
		return b.Close()
	}
	return t.log.commit(b, o)
}

func (t *TentativeLog) encode(b *pebble.Batch, ops []*tentativeOp, raised tentativeIndexes) error {
	for _, o := range ops {
		for _, w := range o.add {
			if err := w.put(b, t.partition); err != nil {
				return err
			}
		}
		for _, e := range o.erase {
			if err := b.Delete(tentativeDotKey(t.partition, tentativeKindWrite, e.dot), nil); err != nil {
				return err
			}
			if !e.hasValue {
				continue
			}
			if err := b.Delete(tentativeDotKey(t.partition, tentativeKindValue, e.dot), nil); err != nil {
				return err
			}
		}
	}
	for kind, index := range raised {
		if err := b.Set(tentativeKey(t.partition, kind, 0), encodeTentativeIndex(index), nil); err != nil {
			return err
		}
	}
	return nil
}

// finish takes op's effects up into memory: only now that they are on disk.
func (t *TentativeLog) finish(op *tentativeOp, err error) {
	op.err = err
	if err != nil {
		for _, w := range op.add {
			delete(t.pending, w.Dot)
		}
		t.log.tentative.release(op.cost)
		return
	}
	for _, w := range op.add {
		p := t.pending[w.Dot]
		delete(t.pending, w.Dot)
		if p.settledAt == 0 {
			t.index.insert(w.version(), w.Key)
			continue
		}
		t.settled[w.Dot] = tentativeSettled{p.settledAt, w.version(), w.cost()}
	}
	var freed tentativeCost
	for _, e := range op.erase {
		if i, ok := t.index.find(e.dot); ok {
			freed.add(i.cost())
			t.index.remove(i)
		} else if s, ok := t.settled[e.dot]; ok {
			freed.add(s.cost)
			delete(t.settled, e.dot)
		}
	}
	if len(op.erase) > 0 {
		t.log.tentative.release(freed)
	}
}

// saveHeard is for [Log.Close]: no other write is in flight.
func (t *TentativeLog) saveHeard() error {
	heard := t.heard.Load()
	if heard <= t.heardSaved {
		return nil
	}
	return t.write(nil, tentativeIndexes{tentativeKindHeard: heard}, pebble.Sync)
}

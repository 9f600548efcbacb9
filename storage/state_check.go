package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// CheckID names one comparison of the replicas of a partition.
type CheckID [16]byte

// AppendCheck appends to dst the encoding of a check command. It changes nothing;
// each replica that applies it can show its state as of that entry, see
// [ReplicaState.OnCheck].
func AppendCheck(dst []byte, id CheckID) []byte {
	return append(append(dst, checkFormat), id[:]...)
}

// OnCheck has see called for each check command that is applied from now on, with a
// view of exactly the state that its entry has left. see closes the view; it is
// called by Apply and must not wait. Without it a check costs nothing.
func (r *ReplicaState) OnCheck(see func(CheckID, *ReplicaView)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onCheck = see
}

// showChecks shows the state to the checks of the entry that was applied last. What
// it has left is in the database.
func (r *ReplicaState) showChecks() {
	for _, id := range r.checks {
		if view, err := r.pin(); err == nil { // else the listener was told of damage
			r.onCheck(id, view)
		}
	}
	r.checks = r.checks[:0]
}

// Digest is what everything replicated in a state comes to: keys with values,
// versions and tombstones, promoted dots, fates, conflicts, forfeits and the floor,
// and the entry that was applied last. Replicas that have applied the same entries
// have the same digest, whatever they are made of on disk.
type Digest struct {
	Index, Term    uint64
	Records, Bytes uint64
	Sum            [sha256.Size]byte
}

// digestStep is how much is read at a time. Between two steps nothing but the view
// is held: an open iterator would keep what was in memory and on disk for as long as
// a digest takes.
const digestStep = 1 << 20

// Digest reads the whole view. pace is called after each step with the bytes that it
// took; it may wait, and its error ends the digest. The error is [ErrViewReplaced] if
// the replica was replaced meanwhile, and an ErrStateDamaged if it cannot be read.
func (v *ReplicaView) Digest(pace func(bytes int) error) (Digest, error) {
	d := Digest{Index: v.applied.index, Term: v.applied.term}
	sum := sha256.New()
	var header [16]byte
	binary.LittleEndian.PutUint64(header[:8], d.Index)
	binary.LittleEndian.PutUint64(header[8:], d.Term)
	sum.Write(header[:])
	lower, upper := replicaSpan(v.replica.replica)
	for lower != nil {
		step := 0
		next, err := v.readStep(lower, upper, func(key, value []byte) {
			binary.LittleEndian.PutUint64(header[:8], uint64(len(key)))
			binary.LittleEndian.PutUint64(header[8:], uint64(len(value)))
			sum.Write(header[:])
			sum.Write(key)
			sum.Write(value)
			d.Records++
			step += len(key) + len(value)
		})
		if err != nil {
			return Digest{}, v.replica.damaged(err)
		}
		d.Bytes += uint64(step)
		lower = next
		if err := pace(step); err != nil {
			return Digest{}, err
		}
	}
	sum.Sum(d.Sum[:0])
	return d, nil
}

// readStep gives the records from lower on, keys relative to the replica, until
// digestStep bytes were read. next is where the next step begins; nil at the end.
func (v *ReplicaView) readStep(lower, upper []byte, record func(key, value []byte)) (next []byte, err error) {
	state := v.replica.state
	if err := state.enter(); err != nil {
		return nil, err
	}
	defer state.leave()
	it, err := v.iterate(lower, upper)
	if err != nil {
		return nil, err
	}
	defer func() { _ = it.Close() }() // its errors are told by it.Error
	read := 0
	for ok := it.First(); ok; ok = it.Next() {
		if read >= digestStep {
			return bytes.Clone(it.Key()), nil
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		read += len(it.Key()) + len(value)
		if key := it.Key()[replicaPrefixLen:]; key[0] != kindApplied { // that is the digest's index and term
			if err := checkRecord(key, value, nil); err != nil {
				return nil, err
			}
			record(key, value)
		}
	}
	return nil, it.Error()
}

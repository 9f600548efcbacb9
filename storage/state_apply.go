package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// ApplyEntry is one committed log entry.
type ApplyEntry struct {
	Index, Term uint64
	// Commands were proposed together and share the index; there may be none.
	Commands [][]byte
}

// maxApplyBatchBytes is where Apply ends one Pebble batch and begins the next,
// between two entries: a batch is held in memory whole, and one of more than
// half a memtable is written in a slower way. One entry may exceed it.
const maxApplyBatchBytes = 4 << 20

// overlaid is what an earlier command of a batch has made of a key, as far as
// a later one needs to know.
type overlaid struct {
	present bool
	version Version
}

// Apply takes up entries in log order and gives one result a command. Entries
// at or below Applied were taken up before: they are skipped, and their results
// are nil. Effects are readable, but not yet durable, when Apply returns.
//
// An error is fatal for the replica. Nothing of the batch in hand has been
// applied then; of entries so large that they need several batches, the first
// may have been, together with their applied index.
func (r *ReplicaState) Apply(entries []ApplyEntry) ([][]CommandResult, error) {
	if err := r.state.enter(); err != nil {
		return nil, err
	}
	defer r.state.leave()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.destroyed.Load() {
		return nil, ErrReplicaDestroyed
	}
	var results [][]CommandResult
	err := r.state.guard(func() (err error) {
		results, err = r.apply(entries)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("applying to %v: %w", r.replica, err)
	}
	return results, nil
}

func (r *ReplicaState) apply(entries []ApplyEntry) ([][]CommandResult, error) {
	at := *r.applied.Load()
	looks, err := r.decode(entries, at)
	if err != nil {
		return nil, err
	}
	if r.batch == nil {
		r.batch = r.state.db.NewBatch()
	}
	r.batch.Reset()
	clear(r.overlay)
	results := make([][]CommandResult, len(entries))
	commands, flat := r.commands, make([]CommandResult, len(r.commands))
	for i, e := range entries {
		if e.Index <= at.index {
			continue
		}
		n := len(e.Commands)
		results[i], flat = flat[:n:n], flat[n:]
		for j := range n {
			if err := r.applyCommand(e.Index, &commands[j], &results[i][j], looks); err != nil {
				return nil, err
			}
		}
		commands = commands[n:]
		at = position{e.Index, e.Term}
		if r.batch.Len() > maxApplyBatchBytes || i == len(entries)-1 {
			if err := r.write(at); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// decode reads the commands of all entries above at into r.commands before
// anything is applied, and says whether any of them has to look at the state
// before it: if none has, nobody needs the overlay.
func (r *ReplicaState) decode(entries []ApplyEntry, at position) (looks bool, err error) {
	clear(r.commands[:cap(r.commands)])
	r.commands = r.commands[:0]
	for i, e := range entries {
		if i > 0 && e.Index <= entries[i-1].Index {
			return false, fmt.Errorf("entry %d comes after entry %d", e.Index, entries[i-1].Index)
		}
		if e.Index <= at.index {
			continue
		}
		if e.Term < at.term {
			return false, fmt.Errorf("entry %d has term %d, the one before it %d", e.Index, e.Term, at.term)
		}
		at = position{e.Index, e.Term}
		for i, encoded := range e.Commands {
			c, err := decodeCommand(encoded, &r.nodes)
			if err != nil {
				return false, fmt.Errorf("entry %d, command %d: %w", e.Index, i, err)
			}
			looks = looks || c.looks()
			r.commands = append(r.commands, c)
		}
	}
	return looks, nil
}

// looks says whether the command depends on what the key holds.
func (c *Command) looks() bool {
	return c.Kind == CommandDelete || c.Condition.Kind != ConditionNone
}

func (r *ReplicaState) applyCommand(index uint64, c *Command, result *CommandResult, overlay bool) error {
	if c.looks() {
		before, err := r.before(c.Key)
		if err != nil {
			return err
		}
		result.Existed = before.present
		if !c.Condition.holds(before.present, before.version) {
			result.ConditionFailed = true
			if before.present {
				current := before.version
				result.Current = &current
			}
			return nil
		}
	}
	v := Value{
		Version:           Version{Index: index, Timestamp: c.Timestamp, Node: c.Node},
		Tombstone:         c.Kind == CommandDelete,
		Linearizable:      true,
		LinearizableIndex: index,
		Bytes:             c.Value,
	}
	op := r.batch.SetDeferred(len(r.users)+len(c.Key), v.encodedLen())
	copy(op.Key[copy(op.Key, r.users):], c.Key)
	v.encodeTo(op.Value)
	if err := op.Finish(); err != nil {
		return err
	}
	if overlay {
		r.overlay[string(c.Key)] = overlaid{present: !v.Tombstone, version: v.Version}
	}
	result.Version = v.Version
	return nil
}

// before is what the commands so far have left of key.
func (r *ReplicaState) before(key []byte) (overlaid, error) {
	if o, ok := r.overlay[string(key)]; ok {
		return o, nil
	}
	v, closer, err := r.read(key)
	if closer == nil {
		return overlaid{}, err
	}
	return overlaid{present: !v.Tombstone, version: v.Version}, closer.Close()
}

// write puts the batch, and with it the applied position, into the database.
func (r *ReplicaState) write(at position) error {
	op := r.batch.SetDeferred(len(r.prefix)+1, appliedLen)
	op.Key[copy(op.Key, r.prefix)] = kindApplied
	at.append(op.Value[:0])
	if err := op.Finish(); err != nil {
		return err
	}
	if err := r.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	r.applied.Store(&at)
	r.batch.Reset()
	clear(r.overlay)
	return nil
}

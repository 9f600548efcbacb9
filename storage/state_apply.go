package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/capstan-kv/capstan/storage/fault"
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

// overlay is what earlier commands of a batch have made of keys, as far as later
// ones need to know. Values share the commands' bytes.
type overlay struct {
	at     map[string]int // into values; absent for a key that was removed
	values []Value
}

const absent = -1

// maxKeptCommands is how many commands, or values of an overlay, a replica keeps
// room for between two calls of Apply: some 512 KiB. A replica that catches up
// applies up to 64 entries of 1,024 commands at a time; that room is given back.
const maxKeptCommands = 4096

// emptied returns s without its elements, ready to be filled again. What s refers
// to is let go; its array too, if it has room for more than maxKeptCommands.
func emptied[T any](s []T) []T {
	if cap(s) > maxKeptCommands {
		return nil
	}
	clear(s)
	return s[:0]
}

func (o *overlay) clear() {
	if len(o.at) > maxKeptCommands {
		o.at = map[string]int{}
	}
	clear(o.at)
	o.values = emptied(o.values)
}

func (o *overlay) set(key []byte, v *Value) {
	o.at[string(key)] = len(o.values)
	o.values = append(o.values, *v)
}

// Apply takes up entries in log order and gives one result a command. Entries
// at or below Applied were taken up before: they are skipped, and their results
// are nil. One of another history than that is [ErrStateBesideLog]. Effects are readable, but not yet durable, when Apply returns.
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
	at := r.ledger.Load().applied
	defer func() { r.commands = emptied(r.commands) }()
	looks, err := r.decode(entries, at)
	if err != nil {
		return nil, err
	}
	if r.batch == nil {
		r.batch = r.state.db.NewBatch()
	}
	r.batch.Reset()
	r.overlay.clear()
	r.checks = r.checks[:0]
	r.beginLedger()
	results := make([][]CommandResult, len(entries))
	commands, flat := r.commands, make([]CommandResult, len(r.commands))
	for i, e := range entries {
		if e.Index <= at.index {
			continue
		}
		n := len(e.Commands)
		if !r.batch.Empty() && hasFloor(commands[:n]) { // see applyFloor
			if err := r.write(at); err != nil {
				return nil, err
			}
		}
		results[i], flat = flat[:n:n], flat[n:]
		for j := range n {
			if err := r.applyCommand(e.Index, &commands[j], &results[i][j], looks); err != nil {
				return nil, r.damaged(err) // the command was decoded: it is what is stored
			}
		}
		commands = commands[n:]
		at = position{e.Index, e.Term}
		if r.batch.Len() > maxApplyBatchBytes || i == len(entries)-1 || len(r.checks) > 0 {
			if err := r.write(at); err != nil {
				return nil, err
			}
			r.showChecks()
		}
	}
	return results, nil
}

// decode reads the commands of all entries above at into r.commands before
// anything is applied, and says whether any of them has to look at the state
// before it: if none has, nobody needs the overlay.
func (r *ReplicaState) decode(entries []ApplyEntry, at position) (looks bool, err error) {
	for i, e := range entries {
		if i > 0 && e.Index <= entries[i-1].Index {
			return false, fmt.Errorf("entry %d comes after entry %d", e.Index, entries[i-1].Index)
		}
		if e.Index <= at.index {
			if err := CheckBeside(r.replica, at.index, at.term, e.Index, e.Term); err != nil {
				return false, err
			}
			continue
		}
		if e.Term < at.term {
			return false, fmt.Errorf("%w: %v: entry %d of term %d stands behind entry %d of term %d", ErrStateBesideLog, r.replica, e.Index, e.Term, at.index, at.term)
		}
		at = position{e.Index, e.Term}
		for i, encoded := range e.Commands {
			c, err := decodeAnyCommand(encoded, &r.nodes)
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

func hasFloor(commands []anyCommand) bool {
	for i := range commands {
		if o := commands[i].other; o != nil && o.format == floorFormat {
			return true
		}
	}
	return false
}

func (r *ReplicaState) applyCommand(index uint64, c *anyCommand, result *CommandResult, looked bool) error {
	if c.other != nil {
		return r.applyOther(index, c.other, result)
	}
	if c.looks() {
		present, version, err := r.before(c.Key)
		if err != nil {
			return err
		}
		result.Existed = present
		if !c.Condition.holds(present, version) {
			result.ConditionFailed = true
			if present {
				result.Current = &version
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
	result.Version = v.Version
	if !looked {
		return r.putValue(c.Key, &v)
	}
	return r.writeValue(c.Key, &v)
}

// writeValue has key hold v, for the commands that follow too. It keeps the
// value's bytes until the batch is written.
func (r *ReplicaState) writeValue(key []byte, v *Value) error {
	if v.Tombstone && fault.On(fault.FloorIgnored) {
		return r.removeKey(key)
	}
	r.overlay.set(key, v)
	return r.putValue(key, v)
}

// putValue puts a value into the batch, and the place of a tombstone, for the
// floor to find it.
func (r *ReplicaState) putValue(key []byte, v *Value) error {
	op := r.batch.SetDeferred(len(r.users)+len(key), v.encodedLen())
	copy(op.Key[copy(op.Key, r.users):], key)
	v.encodeTo(op.Value)
	if err := op.Finish(); err != nil || !v.Tombstone {
		return err
	}
	return r.setRecord(tombstoneKey(v.Version.Index, key), nil)
}

// removeKey has key hold nothing, for the commands that follow too.
func (r *ReplicaState) removeKey(key []byte) error {
	r.overlay.at[string(key)] = absent
	op := r.batch.DeleteDeferred(len(r.users) + len(key))
	copy(op.Key[copy(op.Key, r.users):], key)
	return op.Finish()
}

// before says whether the commands so far have left key a value, and its version.
func (r *ReplicaState) before(key []byte) (present bool, version Version, err error) {
	v, closer, err := r.held(key)
	if err != nil || v == nil {
		return false, Version{}, err
	}
	if !v.Tombstone {
		present, version = true, v.Version
	}
	if closer != nil {
		err = closer.Close()
	}
	return present, version, err
}

// held is what the commands so far have left of key, a tombstone included; nil
// for nothing. It is good until the closer is closed, if there is one.
func (r *ReplicaState) held(key []byte) (*Value, interface{ Close() error }, error) {
	if at, ok := r.overlay.at[string(key)]; ok {
		if at == absent {
			return nil, nil, nil
		}
		return &r.overlay.values[at], nil, nil
	}
	v, closer, err := r.read(key)
	if closer == nil {
		return nil, nil, err
	}
	return &v, closer, nil
}

// write puts the batch, and with it the applied position, into the database.
func (r *ReplicaState) write(at position) error {
	if err := r.finishLedger(); err != nil {
		return err
	}
	op := r.batch.SetDeferred(len(r.prefix)+1, appliedLen)
	op.Key[copy(op.Key, r.prefix)] = kindApplied
	at.append(op.Value[:0])
	if err := op.Finish(); err != nil {
		return err
	}
	raise(&r.floor, r.change.floor)
	if err := r.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	r.publishLedger(at)
	r.batch.Reset()
	r.overlay.clear()
	r.beginLedger()
	return nil
}

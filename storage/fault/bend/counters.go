package bend

import (
	"encoding/json"
	"os"
	"sync/atomic"
)

// CountersSuffix makes the counters' path from the control file's.
const CountersSuffix = ".counters"

// Counters is what a process has felt so far, since it started: the file beside
// the control file, one JSON object, replaced atomically at most every 50 ms.
type Counters struct {
	// PID is the process that writes: another one's file may still be there
	// until a new process begins to serve.
	PID int `json:"pid"`
	// Seen is the generation of the control that is in force.
	Seen uint64 `json:"seen"`
	// Volatile says that this process's disk forgets what was not synced.
	Volatile bool `json:"volatile"`

	// SyncDelayed counts syncs that were made to wait, SyncFailed those that
	// failed, WriteRefused what found the disk full, and ClockReads the readings
	// of the clock that were not the machine's.
	SyncDelayed  uint64 `json:"sync_delayed"`
	SyncFailed   uint64 `json:"sync_failed"`
	WriteRefused uint64 `json:"write_refused"`
	ClockReads   uint64 `json:"clock_reads"`
}

// felt counts while everything runs.
type felt struct {
	syncDelayed, syncFailed, writeRefused, clockReads atomic.Uint64
}

func (b *Bend) counters() Counters {
	return Counters{
		PID: os.Getpid(), Seen: b.state.Load().Generation, Volatile: b.volatile,
		SyncDelayed: b.felt.syncDelayed.Load(), SyncFailed: b.felt.syncFailed.Load(),
		WriteRefused: b.felt.writeRefused.Load(), ClockReads: b.felt.clockReads.Load(),
	}
}

// tell writes the counters if they have changed. It goes to the machine's disk
// directly: what is told about a disk must not depend on it.
func (b *Bend) tell() error {
	now := b.counters()
	if b.toldOnce && now == b.told {
		return nil
	}
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	path := b.path + CountersSuffix
	if err := os.WriteFile(path+".tmp", append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	b.told, b.toldOnce = now, true
	return nil
}

package replication

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage/fault"
)

// When the log is cut. A snapshot here is a durable state plus metadata, cheap
// to take, so what matters is the log's size on disk and the time to replay it
// after a crash.
const (
	// snapshotBytes of entries trigger a snapshot: a few seconds of replay.
	snapshotBytes = 64 << 20
	// snapshotEntries trigger one too, looked at every snapshotInterval of the
	// library's own: for groups of many tiny entries.
	snapshotEntries = 32 << 10
	// trailingBytes of log stay behind a snapshot for followers that lag, so
	// that a short absence does not cost them a whole copy of the state.
	trailingBytes = 32 << 20
	// The library counts trailing entries, not bytes; these bound the count.
	minTrailingEntries = 64
	maxTrailingEntries = 8 << 10
	// smallLog is the length of a log in a build that is to send snapshots often.
	smallLog = 64
)

// due says that enough was applied since the last snapshot.
func (f *fsm) due() bool {
	return f.bytes.Load() >= snapshotBytes || fault.SmallLogs() && f.entries.Load() >= smallLog
}

// trailingEntries is how many entries of the average size seen make up
// trailingBytes.
func trailingEntries(bytes, entries int64) uint64 {
	if fault.SmallLogs() {
		return smallLog / 4
	}
	if bytes <= 0 || entries <= 0 {
		return maxTrailingEntries
	}
	n := int64(float64(trailingBytes) / (float64(bytes) / float64(entries)))
	return uint64(min(max(n, minTrailingEntries), maxTrailingEntries))
}

// compact takes a snapshot each time enough bytes were applied since the last.
func (g *Group) compact(ctx context.Context) {
	for {
		select {
		case <-g.snapshots:
		case <-ctx.Done():
			return
		}
		if !g.fsm.due() {
			continue
		}
		if err := g.CutLog(trailingEntries(g.fsm.bytes.Load(), g.fsm.entries.Load())); err != nil {
			g.host.emit(SnapshotFailed{Replica: g.replica, Err: err})
		}
	}
}

// CutLog makes the state durable and cuts the log behind it, so that trailing
// entries are left. It is done by itself often enough; tests do it to have a
// snapshot sent.
func (g *Group) CutLog(trailing uint64) error {
	c := g.raft.ReloadableConfig()
	c.TrailingLogs = trailing
	err := g.raft.ReloadConfig(c)
	if err == nil {
		err = g.raft.Snapshot().Error()
	}
	if errors.Is(err, raft.ErrNothingNewToSnapshot) || errors.Is(err, raft.ErrRaftShutdown) {
		return nil
	}
	return err
}

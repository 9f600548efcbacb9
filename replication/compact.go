package replication

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage/fault"
)

// When the log is cut. A snapshot here is a durable state plus metadata, cheap
// to take, so what matters is the log's size on disk and the time to replay it
// after a crash.
const (
	// snapshotBytes of entries trigger a snapshot: a few seconds of replay.
	snapshotBytes = 64 << 20
	// snapshotEntries trigger one too: for groups of many tiny entries.
	snapshotEntries = 32 << 10
	// trailingBytes of log stay behind a snapshot for followers that lag, so
	// that a short absence does not cost them a whole copy of the state.
	trailingBytes = 32 << 20
	// The library counts trailing entries, not bytes; these bound the count.
	minTrailingEntries = 64
	maxTrailingEntries = 8 << 10
	// maxHeldBytes of log are kept for a follower while a snapshot is under way to it, and
	// until it has caught up: a transfer takes as long as the state is large, and without
	// the entries that came meanwhile it would be for nothing. Beyond this a load that
	// outruns the transfer has to pause for the follower to come back.
	maxHeldBytes = 1 << 30
	// smallLog is the length of a log in a build that is to send snapshots often.
	smallLog = 64
)

// due says that enough was applied since the last snapshot.
func (f *fsm) due() bool {
	return f.bytes.Load() >= snapshotBytes || f.entries.Load() >= snapshotEntries || fault.SmallLogs() && f.entries.Load() >= smallLog
}

// trailingEntries is how many entries of the average size seen make up
// trailingBytes.
func trailingEntries(bytes, entries int64) uint64 {
	if fault.SmallLogs() {
		return smallLog / 4
	}
	return uint64(min(max(entriesOf(trailingBytes, bytes, entries), minTrailingEntries), maxTrailingEntries))
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

// holds are the log entries kept for followers that a snapshot is under way to.
type holds struct {
	mu   sync.Mutex
	from map[raft.ServerID]uint64 // the follower needs what comes after this index
}

func (h *holds) begin(id raft.ServerID, index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.from == nil {
		h.from = map[raft.ServerID]uint64{}
	}
	h.from[id] = index
}

func (h *holds) end(id raft.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.from, id)
}

func (h *holds) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.from)
}

// matched notes how far a follower has come. Within what always trails a snapshot it
// needs no more.
func (h *holds) matched(id raft.ServerID, index, last uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.from[id]; !ok {
		return
	}
	if h.from[id] = index; index+minTrailingEntries >= last {
		delete(h.from, id)
	}
}

// lowest is the lowest index held for any follower that is still there; last if none is.
func (h *holds) lowest(last uint64, there func(raft.ServerID) bool) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, from := range h.from {
		if !there(id) {
			delete(h.from, id)
			continue
		}
		last = min(last, from)
	}
	return last
}

// heldEntries is how many entries at the end of the log are kept for followers.
func (g *Group) heldEntries(bytes, entries int64) uint64 {
	last := g.raft.LastIndex()
	lowest := g.holds.lowest(last, func(id raft.ServerID) bool {
		m, err := ParseServerID(id)
		return err == nil && g.host.heard(m.Node)
	})
	n := last - lowest
	if n > 0 {
		n++ // with the one that precedes the first append
	}
	if bytes > 0 && entries > 0 {
		n = min(n, uint64(maxHeldBytes/(float64(bytes)/float64(entries))))
	}
	return n
}

// freshSnapshots takes a snapshot before one is sent. The library sends the stored one,
// under the index of the last cut of the log; the stream is the state of the moment, but
// the follower would need all entries from that index on.
type freshSnapshots struct {
	raft.SnapshotStore
	group *Group
}

func (s freshSnapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.SnapshotStore.List()
	g := s.group
	if err != nil || !g.ready.Load() || g.raft.State() != raft.Leader ||
		len(metas) > 0 && metas[0].Index+minTrailingEntries >= g.raft.AppliedIndex() {
		return metas, err
	}
	if err := g.CutLog(trailingEntries(g.fsm.bytes.Load(), g.fsm.entries.Load())); err != nil {
		g.host.emit(SnapshotFailed{Replica: g.replica, Err: err}) // the stored one does, too
	}
	return s.SnapshotStore.List()
}

// CutLogTo is [Group.CutLog] with about so many bytes of entries left, and one
// entry at least. hold also keeps what followers need that a snapshot is under way
// to; without it they may have to take another one.
func (g *Group) CutLogTo(bytes int64, hold bool) error {
	trailing := uint64(max(entriesOf(bytes, g.fsm.bytes.Load(), g.fsm.entries.Load()), 1))
	if hold {
		return g.CutLog(trailing)
	}
	return g.cutLog(trailing)
}

// entriesOf is how many entries of the average size seen make up want bytes.
func entriesOf(want, bytes, entries int64) int64 {
	if bytes <= 0 || entries <= 0 {
		return maxTrailingEntries
	}
	return int64(float64(want) / (float64(bytes) / float64(entries)))
}

// CutLog makes the state durable and cuts the log behind it, so that trailing
// entries are left, and more where a snapshot is under way to a follower. It is done by itself often enough; tests do it to have a
// snapshot sent.
func (g *Group) CutLog(trailing uint64) error {
	return g.cutLog(max(trailing, g.heldEntries(g.fsm.bytes.Load(), g.fsm.entries.Load())))
}

func (g *Group) cutLog(trailing uint64) error {
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

package replication

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/logcheck"
	"github.com/capstan-kv/capstan/storage"
)

// Commit notices: how followers learn what is committed.
//
// A follower of the Raft library learns the commit index from append requests
// only, and an idle leader repeats those every CommitTimeout: at the default
// (50 ms) they are the main cost of an idle group, at ours a follower would
// lag for seconds. So the leader's host says it itself: after applying, and
// with each read index it gives. The follower turns a notice into an append
// request without entries and feeds it to its own Raft:
//
//	Term, ID, Addr              the leader's
//	PrevLogEntry, PrevLogTerm   the committed entry
//	LeaderCommitIndex           its index
//
// Why that is safe. A notice is made by a replica whose leadership of
// leaderTerm is proven, of an entry it has applied: so leaderTerm has one leader,
// the one named, and (index, term) is committed. The follower's Raft
// (raft.appendEntries) treats the request like any of the leader's own:
//
//   - Term below its own: ignored. Above: it becomes a follower of that term,
//     as it would on the leader's next heartbeat. Equal: it follows the leader,
//     who exists; it can not be the leader itself, as a term has but one.
//   - It goes on only if its own log has an entry of PrevLogTerm at
//     PrevLogEntry. By log matching its log then equals the leader's up to
//     there, all of it committed, and commit index = min(LeaderCommitIndex, last
//     index) = index names only committed entries.
//   - It carries no entries, so nothing is stored or removed.
//
// Late, repeated and reordered notices are harmless for the same reasons. One
// effect is not about logs: a request the follower takes also counts as a sign
// of life. So a leader that has stalled sends none, and a follower feeds
// only those that tell it something new.

// notice is what the group can say now; the zero notice if nothing.
func (g *Group) notice() notice {
	lead := g.lead()
	if lead == nil || g.stalled() {
		return notice{}
	}
	index, term := g.applied.last()
	if term == 0 || term > lead.term {
		return notice{} // led no more
	}
	return notice{index: index, term: term, leaderTerm: lead.term}
}

// noticer gathers the groups that have news and tells each peer of all of them
// in one frame.
type noticer struct {
	host *Host
	wake chan struct{}

	mu    sync.Mutex
	dirty map[*Group]struct{}
}

func newNoticer(h *Host) *noticer {
	return &noticer{host: h, wake: make(chan struct{}, 1), dirty: map[*Group]struct{}{}}
}

func (n *noticer) mark(g *Group) {
	n.mu.Lock()
	n.dirty[g] = struct{}{}
	n.mu.Unlock()
	signal(n.wake)
}

func (n *noticer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		timer.Reset(noticeWindow)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		dirty := n.dirty
		n.dirty = make(map[*Group]struct{}, len(dirty))
		n.mu.Unlock()
		n.send(dirty)
	}
}

func (n *noticer) send(groups map[*Group]struct{}) {
	frames := map[partition.NodeID][]addressed{}
	for g := range groups {
		note := g.notice()
		if note.index == 0 {
			continue
		}
		for _, m := range membersOf(g.configuration()) {
			if m.ServerID() == g.self {
				continue
			}
			frames[m.Node] = append(frames[m.Node], addressed{
				to:     storage.Replica{Group: g.replica.Group, Generation: m.Generation},
				from:   g.replica.Generation,
				notice: note,
			})
		}
	}
	for node, notices := range frames {
		// A lost one is made good by the next, the next read, or the library's
		// own repetition after Timing.Commit.
		_ = n.host.peers.Notify(node, KindNotice, encodeNotices(notices))
	}
}

func (h *Host) handleNotice(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	notices, err := decodeNotices(payload)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		if g := h.serving(n.to); g != nil && g.counted(Member{Node: from, Generation: n.from}) {
			g.learner.learn(Member{Node: from, Generation: n.from}, n.notice)
		}
	}
	return nil, nil
}

// learner feeds notices to its replica's Raft. It keeps the newest: a notice
// may overtake the entry it names, and is fed again when that is stored.
type learner struct {
	group *Group
	wake  chan struct{}

	pending atomic.Bool   // a notice waits for its entry
	stored  atomic.Uint64 // last index known to be stored
	stores  atomic.Uint64 // how often something was stored
	mu      sync.Mutex
	leader  Member
	newest  notice

	// refused is a notice whose place another entry has, as of so many stores. Fed again,
	// the library would note its leader again, who may be gone. Owned by run.
	refused   notice
	refusedAt uint64
}

func newLearner(g *Group) *learner { return &learner{group: g, wake: make(chan struct{}, 1)} }

func (l *learner) learn(leader Member, n notice) {
	r := l.group.raft
	if n.index <= r.CommitIndex() || n.leaderTerm > logcheck.MaxTerm || n.leaderTerm > r.CurrentTerm()+logcheck.MaxTermStep {
		return // nothing new, or a term that no election can have reached
	}
	l.mu.Lock()
	newer := n.leaderTerm > l.newest.leaderTerm || n.leaderTerm == l.newest.leaderTerm && n.index > l.newest.index
	if newer {
		l.leader, l.newest = leader, n
		l.pending.Store(true)
	}
	l.mu.Unlock()
	if newer {
		signal(l.wake)
	}
}

// onStored is called on Raft's main loop, in the middle of an append: what it
// wakes is handled by Raft after that append.
func (l *learner) onStored(last uint64) {
	l.stored.Store(last)
	l.stores.Add(1)
	if l.pending.Load() {
		signal(l.wake)
	}
}

func (l *learner) run(ctx context.Context) {
	timer := time.NewTimer(0)
	<-timer.C
	var missing uint64 // what the timer runs for, 0 if it does not
	var pause time.Duration
	for {
		select {
		case <-l.wake:
			if behind := l.feed(); behind > 0 && missing == 0 {
				missing, pause = behind, behindAfter
				timer.Reset(pause)
			}
		case <-timer.C:
			behind := l.feed()
			if behind > 0 && l.group.raft.CommitIndex() < missing {
				l.askForMore()
			}
			if missing = behind; behind > 0 {
				pause = min(2*pause, behindAtMost)
				timer.Reset(pause)
			}
		case <-ctx.Done():
			return
		}
	}
}

const (
	// behindAfter is how long an entry known to be committed may be missing
	// before the leader is asked for it: above the time an append takes.
	behindAfter = 100 * time.Millisecond
	// behindAtMost bounds the pauses between asking again.
	behindAtMost = 2 * time.Second
)

// feed gives the newest notice to Raft if its entry is there, and returns the
// index that it names if that is still not committed here.
func (l *learner) feed() (behind uint64) {
	l.mu.Lock()
	leader, n := l.leader, l.newest
	l.mu.Unlock()
	r := l.group.raft
	stores := l.stores.Load() // before the entry is looked at
	known := n == l.refused && stores == l.refusedAt
	if !known && n.index > r.CommitIndex() && n.index <= max(l.stored.Load(), r.LastIndex()) {
		answer, err := l.group.transport.Inject(noticeRequest(l.group.transport, leader, n))
		if a, ok := answer.(*raft.AppendEntriesResponse); err == nil && ok && !a.Success {
			// Another entry stands in its place. The leader's own appends replace it, and
			// wake us again.
			l.refused, l.refusedAt = n, stores
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	done := n.index <= r.CommitIndex() || n.leaderTerm < r.CurrentTerm() // of a leader gone by
	if done && l.newest == n {
		l.pending.Store(false)
	}
	if done {
		return 0
	}
	return n.index
}

// askForMore makes the leader send what this replica lacks. The library tries
// again after a failed append only when there is something new to send, or
// when CommitTimeout has passed.
func (l *learner) askForMore() {
	l.mu.Lock()
	leader := l.leader
	l.mu.Unlock()
	to := storage.Replica{Group: l.group.replica.Group, Generation: leader.Generation}
	_ = l.group.host.peers.Notify(leader.Node, KindBehind, encodeReplicas([]storage.Replica{to})) // asked again if lost
}

// handleBehind is the leader's side: it proposes a no-op, which makes the
// library send to each follower all that it lacks.
func (h *Host) handleBehind(_ context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
	replicas, err := decodeReplicas(payload)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		if g := h.serving(r); g != nil {
			g.nudge()
		}
	}
	return nil, nil
}

func noticeRequest(t raft.Transport, leader Member, n notice) *raft.AppendEntriesRequest {
	addr := t.EncodePeer(leader.ServerID(), leader.address())
	return &raft.AppendEntriesRequest{
		RPCHeader:         raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.ServerID()), Addr: addr},
		Term:              n.leaderTerm,
		Leader:            addr,
		PrevLogEntry:      n.index,
		PrevLogTerm:       n.term,
		LeaderCommitIndex: n.index,
	}
}

// observedLog is the replica's log store; it tells the learner what is stored.
type observedLog struct {
	*recentLog
	stored func(last uint64)
	failed func(error)
}

func (o observedLog) StoreLog(l *raft.Log) error { return o.StoreLogs([]*raft.Log{l}) }

func (o observedLog) StoreLogs(logs []*raft.Log) error {
	if err := o.recentLog.StoreLogs(logs); err != nil {
		// The library would go on: as a leader it would stand again and again, as a
		// follower it would reject every append, and its last index would no longer be
		// that of its log. What reached the disk is open.
		o.failed(fmt.Errorf("entries could not be written to the log: %w", err))
		return err
	}
	if len(logs) > 0 {
		o.stored(logs[len(logs)-1].Index)
	}
	return nil
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

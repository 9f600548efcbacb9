package replication

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
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
// of life. So a leader with a stalled disk sends none, and a follower feeds
// only those that tell it something new.

// notice is what the group can say now; the zero notice if nothing.
func (g *Group) notice() notice {
	lead := g.lead()
	if lead == nil || g.stalled.Load() {
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
		if g := h.serving(n.to); g != nil {
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
	mu      sync.Mutex
	leader  Member
	newest  notice
}

func newLearner(g *Group) *learner { return &learner{group: g, wake: make(chan struct{}, 1)} }

func (l *learner) learn(leader Member, n notice) {
	if n.index <= l.group.raft.CommitIndex() {
		return
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
	if l.pending.Load() {
		signal(l.wake)
	}
}

func (l *learner) run(ctx context.Context) {
	for {
		select {
		case <-l.wake:
			l.feed()
		case <-ctx.Done():
			return
		}
	}
}

func (l *learner) feed() {
	l.mu.Lock()
	leader, n := l.leader, l.newest
	l.mu.Unlock()
	r := l.group.raft
	if n.index > r.CommitIndex() {
		if n.index > max(l.stored.Load(), r.LastIndex()) || n.leaderTerm < r.CurrentTerm() {
			return // not stored yet: onStored wakes us. Or of a leader gone by.
		}
		// Not taken, or not with success: the entry is not there, or another
		// stands in its place. The leader's own appends settle that.
		_, _ = l.group.transport.Inject(noticeRequest(l.group.transport, leader, n))
	}
	l.mu.Lock()
	// Fed, and either taken or never to be: an entry of another term stands
	// there, and the leader's own append will replace it, waking us again.
	if l.newest == n && r.CommitIndex() >= n.index {
		l.pending.Store(false)
	}
	l.mu.Unlock()
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
	*raft.LogCache
	stored func(last uint64)
}

func (o observedLog) StoreLog(l *raft.Log) error { return o.StoreLogs([]*raft.Log{l}) }

func (o observedLog) StoreLogs(logs []*raft.Log) error {
	if err := o.LogCache.StoreLogs(logs); err != nil {
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

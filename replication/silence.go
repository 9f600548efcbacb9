package replication

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// silence is how long the replica has heard no leader of its term or a later
// one, and given its vote to nobody; 0 if it leads itself.
//
// What counts is when a request came to this process. When Raft turns to it
// says less: behind a slow write it finds a leader silent whose heartbeats
// wait in its inbox.
func (g *Group) silence(now time.Time) time.Duration {
	if g.raft.State() == raft.Leader {
		return 0
	}
	last := g.opened // a leader needs time to find it
	if contact := g.raft.LastContact(); contact.After(last) {
		last = contact
	}
	if term, _, at := g.transport.LeaderHeard(); term >= g.raft.CurrentTerm() && at.After(last) {
		last = at
	}
	return max(now.Sub(last), 0)
}

// misses reports whether the replica would have another leader, and could vote for one.
func (g *Group) misses(now time.Time) bool {
	t := g.host.timing
	if g.raft.State() == raft.Leader {
		return g.stall.apply.Load() && !g.stall.disk.Load()
	}
	return g.silence(now) >= t.silence() && !g.stall.disk.Load() && g.host.attention.whole(now) && !g.succession.contested(now, t)
}

// tip is where a log ends.
type tip struct{ term, index uint64 }

func (t tip) compare(u tip) int {
	return cmp.Or(cmp.Compare(t.term, u.term), cmp.Compare(t.index, u.index))
}

// tip is what the replica's log ends with, a snapshot included.
func (g *Group) tip() tip {
	stats := g.raft.Stats()
	at := func(which string) tip {
		term, _ := strconv.ParseUint(stats["last_"+which+"_term"], 10, 64)
		index, _ := strconv.ParseUint(stats["last_"+which+"_index"], 10, 64)
		return tip{term, index}
	}
	log, snapshot := at("log"), at("snapshot")
	if log.index >= snapshot.index {
		return log
	}
	return snapshot
}

// bereft is a voter that misses its leader.
type bereft struct {
	Member
	tip     tip
	applied uint64
	unable  bool // to lead
}

// applyLag is what makes a difference between two replicas with equal logs: those that
// apply as fast as they can differ by less, and share the leadership of many groups.
const applyLag = maxAppendEntries

// lag is how far the state is behind the log, in steps of applyLag.
func (b bereft) lag() uint64 { return (b.tip.index - min(b.applied, b.tip.index)) / applyLag }

// before reports whether b is to stand rather than c: its log is the more up to date, of
// equal logs it has applied more, and of equals it is another one in each group, so that
// no node inherits all of a dead one's.
func (b bereft) before(c bereft, group storage.GroupID) bool {
	return cmp.Or(
		c.tip.compare(b.tip),
		cmp.Compare(b.lag(), c.lag()),
		cmp.Compare(lot(group, b.Member), lot(group, c.Member))) < 0
}

// successor is who of those that miss their leader is to stand: the first of those that
// are able to lead, if a quorum of that many voters misses its leader and would vote for
// it.
func successor(group storage.GroupID, voters int, missing []bereft) (Member, bool) {
	var best *bereft
	for i, b := range missing {
		if !b.unable && (best == nil || b.before(*best, group)) {
			best = &missing[i]
		}
	}
	if best == nil {
		return Member{}, false
	}
	votes := 0
	for _, b := range missing {
		if b.tip.compare(best.tip) <= 0 { // else it refuses
			votes++
		}
	}
	return best.Member, votes > voters/2
}

// lot is the same on every node.
func lot(group storage.GroupID, m Member) uint64 {
	h := fnv.New64a()
	h.Write([]byte(m.ServerID()))
	// What comes last changes the upper bits least: the group comes mixed.
	return (h.Sum64() ^ uint64(group)*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
}

func (h *Host) askSilence(ctx context.Context, node partition.NodeID, replicas []storage.Replica) ([]silenceAnswer, error) {
	b, err := h.peers.Call(ctx, node, KindSilence, encodeReplicas(replicas))
	if err != nil {
		return nil, err
	}
	answers, err := decodeSilences(b)
	if err == nil && len(answers) != len(replicas) {
		err = fmt.Errorf("%w: %d answers for %d replicas", errMessage, len(answers), len(replicas))
	}
	return answers, err
}

// handleSilence is the asked voter's side. It answers for the very replicas
// named: one of another generation has another vote.
func (h *Host) handleSilence(_ context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	replicas, err := decodeReplicas(payload)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	answers := make([]silenceAnswer, len(replicas))
	for i, r := range replicas {
		switch g := h.serving(r); {
		case g == nil:
		case g.misses(now):
			answers[i] = silenceAnswer{status: silenceMisses, tip: g.tip()}
			answers[i].applied, _ = g.applied.last()
			switch {
			case g.stalled():
				answers[i].status = silenceVotes
			case g.succession.hurry(from):
				signal(h.hurry)
			}
		default:
			answers[i].status = silenceHears
		}
	}
	return encodeSilences(answers), nil
}

// attention tells whether the process has run without a break lately. After
// one (a pause, a machine with too much to do) it finds everybody silent: what
// came meanwhile still waits to be read.
type attention struct {
	interval time.Duration // between two looks

	mu      sync.Mutex
	looked  time.Time
	resumed time.Time // end of the last break
}

func newAttention(interval time.Duration) *attention {
	return &attention{interval: interval, looked: time.Now()}
}

// late is how much later than intended a look may come.
func (a *attention) late(now time.Time) bool { return now.Sub(a.looked) > 2*a.interval }

// look is called at every interval.
func (a *attention) look(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late(now) {
		a.resumed = now
	}
	a.looked = now
}

// whole reports whether the last break is over for long enough that what came
// in it has been read.
func (a *attention) whole(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.late(now) && (a.resumed.IsZero() || now.Sub(a.resumed) >= a.interval)
}

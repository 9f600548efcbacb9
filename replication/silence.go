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

// misses reports whether the replica would have another leader.
func (g *Group) misses(now time.Time) bool {
	t := g.host.timing
	return g.silence(now) >= t.silence() && !g.stalled.Load() && g.host.attention.whole(now) && !g.succession.contested(now, t)
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
	tip tip
}

// successor is who of those that miss their leader is to stand, if they are a
// quorum of that many voters: each of them would vote for it. Of equals it is
// another one in each group, so that no node inherits all of a dead one's.
func successor(group storage.GroupID, voters int, missing []bereft) (Member, bool) {
	if len(missing) < voters/2+1 {
		return Member{}, false
	}
	best := missing[0]
	for _, b := range missing[1:] {
		if order := b.tip.compare(best.tip); order > 0 || order == 0 && lot(group, b.Member) < lot(group, best.Member) {
			best = b
		}
	}
	return best.Member, true
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
func (h *Host) handleSilence(_ context.Context, _ partition.NodeID, payload []byte) ([]byte, error) {
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
			answers[i] = silenceAnswer{silenceMisses, g.tip()}
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

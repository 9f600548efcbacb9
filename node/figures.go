package node

import (
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// trouble counts what a database told of, since the node was opened.
type trouble struct{ stalls, slow atomic.Uint64 }

// figures is the node as one scrape of /metrics sees it.
func (n *Node) figures() metrics.Snapshot {
	out := metrics.Snapshot{Node: string(n.id), Version: Version(), CutPeers: len(n.cutFrom()), CutFor: n.cutFor(), LogDropped: n.config.LogDropped()}
	if disk := n.disk.use(); disk.total > 0 {
		out.Disk = metrics.Disk{FreeBytes: disk.free, TotalBytes: disk.total, ReservedBytes: disk.reserve()}
	}
	for _, here := range n.replicas.all() {
		out.Partitions = append(out.Partitions, metrics.Partition{
			ID: partitionLabel(here.partition), Group: groupFigures(here.group), Conflicts: conflictFigures(here.state),
		})
	}
	for _, why := range n.replicas.allLost() {
		if why.Quarantined {
			out.Quarantined++
		} else {
			out.Unopened++
		}
	}
	results, compared := n.comparer.counts()
	out.Compared = metrics.Compared{
		Equal: results[compareEqual], Different: results[compareDifferent], Incomplete: results[compareIncomplete], Last: compared,
	}
	now := n.config.Now()
	for p, held := range n.exchange.Backlog() {
		figures := metrics.Tentative{ID: partitionLabel(p), Backlog: held.Count, Hints: held.Hints}
		if held.Count > 0 {
			figures.OldestSeconds = max(now.Sub(held.OldestTimestamp.Time()).Seconds(), 0)
		}
		out.Tentative = append(out.Tentative, figures)
	}
	use := n.log.TentativeUse()
	out.Store = metrics.TentativeStore{
		DiskBytes: use.DiskBytes, DiskLimit: use.Limits.DiskBytes, MemoryBytes: use.MemoryBytes, MemoryLimit: use.Limits.MemoryBytes,
	}
	select {
	case <-n.controlUp:
		out.Control = groupFigures(n.control.group)
	default:
	}
	state := n.state.Metrics()
	out.Databases = append(out.Databases, metrics.Database{
		Name: "state", DiskBytes: state.DiskBytes, MemTableBytes: state.MemTableBytes,
		CacheBytes: state.CacheBytes, CacheHits: state.CacheHits, CacheMisses: state.CacheMisses,
		Compactions: state.Compactions, Flushes: state.Flushes, CompactionDebt: state.CompactionDebtBytes,
		WALBytes: state.WALBytesWritten, ReadAmplification: int64(state.ReadAmplification), TableFileCount: state.TableFiles,
		L0Files: state.L0Files, StallsTotal: n.stateTrouble.stalls.Load(), DiskSlowsTotal: n.stateTrouble.slow.Load(),
	})
	if log, err := n.log.Metrics(); err == nil {
		out.Databases = append(out.Databases, metrics.Database{
			Name: "log", DiskBytes: log.DiskBytes, MemTableBytes: log.MemTableBytes,
			Compactions: log.Compactions, Flushes: log.Flushes, WALBytes: log.WALBytesWritten, L0Files: log.L0Files,
			CacheBytes: log.CacheBytes, CacheHits: log.CacheHits, CacheMisses: log.CacheMisses, CompactionDebt: log.CompactionDebtBytes,
			ReadAmplification: int64(log.ReadAmplification), TableFileCount: log.TableFiles,
			StallsTotal: n.logTrouble.stalls.Load(), DiskSlowsTotal: n.logTrouble.slow.Load(),
		})
	}
	ring := n.ring()
	for id, partitions := range n.heldBack() {
		out.HeldBack = addHeldBack(out.HeldBack, metrics.HeldBack{Node: nameOf(ring, id), Partitions: partitions})
	}
	for id, peer := range n.transport.Metrics() {
		out.Peers = addPeer(out.Peers, metrics.Peer{
			Name: nameOf(ring, id), Connected: n.transport.Connected(id), Connects: peer.Connects, Dropped: peer.QueueDrops,
			FramesSent: peer.FramesSent, FramesReceived: peer.FramesReceived, BytesSent: peer.BytesSent, BytesReceived: peer.BytesReceived,
		})
	}
	return out
}

// addPeer adds figures to those of the same name: whoever comes with an emptied disk
// is another node under the old name, and a scrape with two figures of one name is
// refused whole.
func addPeer(all []metrics.Peer, p metrics.Peer) []metrics.Peer {
	i := slices.IndexFunc(all, func(o metrics.Peer) bool { return o.Name == p.Name })
	if i < 0 {
		return append(all, p)
	}
	o := all[i]
	all[i] = metrics.Peer{
		Name: p.Name, Connected: o.Connected || p.Connected, Connects: o.Connects + p.Connects, Dropped: o.Dropped + p.Dropped,
		FramesSent: o.FramesSent + p.FramesSent, FramesReceived: o.FramesReceived + p.FramesReceived,
		BytesSent: o.BytesSent + p.BytesSent, BytesReceived: o.BytesReceived + p.BytesReceived,
	}
	return all
}

// addHeldBack does the same. Both may hold back the same partition: what is told is
// the larger number.
func addHeldBack(all []metrics.HeldBack, h metrics.HeldBack) []metrics.HeldBack {
	i := slices.IndexFunc(all, func(o metrics.HeldBack) bool { return o.Node == h.Node })
	if i < 0 {
		return append(all, h)
	}
	all[i].Partitions = max(all[i].Partitions, h.Partitions)
	return all
}

func groupFigures(g *replication.Group) metrics.Group {
	s := g.Status()
	voters := 0
	for _, member := range s.Members {
		if !member.Nonvoter {
			voters++
		}
	}
	return metrics.Group{
		Leader: g.Leads(), HasLeader: s.Leader.Node != "", Term: s.Term, Commit: s.Commit, Applied: s.Applied,
		ReachableVoters: s.Reachable, AllVoters: voters,
	}
}

func partitionLabel(p partition.ID) string { return strconv.FormatUint(uint64(p), 10) }

func partitionID(p int) partition.ID { return partition.ID(p) }

func conflictFigures(state *storage.ReplicaState) metrics.Conflicts {
	totals := state.ConflictTotals()
	listed, dropped := state.ConflictCounts()
	return metrics.Conflicts{
		Listed: listed, Dropped: dropped, StaleBase: totals.StaleBase, Older: totals.Older, Floor: state.Floor(),
	}
}

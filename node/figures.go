package node

import (
	"strconv"
	"sync/atomic"

	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// trouble counts what a database told of, since the node was opened.
type trouble struct{ stalls, slow atomic.Uint64 }

// figures is the node as one scrape of /metrics sees it.
func (n *Node) figures() metrics.Snapshot {
	out := metrics.Snapshot{Node: string(n.id), Version: Version(), CutPeers: len(n.cutFrom()), CutFor: n.cutFor()}
	for _, here := range n.replicas.all() {
		out.Partitions = append(out.Partitions, metrics.Partition{
			ID: strconv.FormatUint(uint64(here.partition), 10), Group: groupFigures(here.group),
		})
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
	for id, peer := range n.transport.Metrics() {
		out.Peers = append(out.Peers, metrics.Peer{
			Name: nameOf(ring, id), Connected: n.transport.Connected(id), Connects: peer.Connects, Dropped: peer.QueueDrops,
			FramesSent: peer.FramesSent, FramesReceived: peer.FramesReceived, BytesSent: peer.BytesSent, BytesReceived: peer.BytesReceived,
		})
	}
	return out
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

func partitionID(p int) partition.ID { return partition.ID(p) }

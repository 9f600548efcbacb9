package node

import (
	"strconv"

	"github.com/capstan-kv/capstan/node/metrics"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// figures is the node as one scrape of /metrics sees it.
func (n *Node) figures() metrics.Snapshot {
	out := metrics.Snapshot{Node: string(n.id), Version: Version()}
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
	})
	if log, err := n.log.Metrics(); err == nil {
		out.Databases = append(out.Databases, metrics.Database{
			Name: "log", DiskBytes: log.DiskBytes, MemTableBytes: log.MemTableBytes,
			Compactions: log.Compactions, Flushes: log.Flushes, WALBytes: log.WALBytesWritten, L0Files: log.L0Files,
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

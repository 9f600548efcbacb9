package node

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/capstan-kv/capstan/node/formation"
	"github.com/capstan-kv/capstan/node/membership"
	"github.com/capstan-kv/capstan/node/reports"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/exchange"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

// journal writes the rooms' events to the node's log: the one place that
// decides what is worth which level.
type journal struct {
	log      *slog.Logger
	refusals *seldom
}

// innermost is the error at the end of the chain: its text has no addresses and
// ports, which differ each time.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// loggedPartition names a replica by the number of its partition, as status and
// metrics do.
func loggedPartition(r storage.Replica) string {
	if p, ok := r.Group.Partition(); ok {
		return partitionLabel(p)
	}
	return "control"
}

func (j journal) replication(e replication.Event) {
	switch e := e.(type) {
	case replication.LeaderObserved:
		j.log.Debug("leader changed", "partition", loggedPartition(e.Replica), "leader", e.Leader.Node, "term", e.Term)
	case replication.LeadershipProven:
		j.log.Info("leading", "partition", loggedPartition(e.Replica), "term", e.Term)
	case replication.LeaderMissed:
		j.log.Info("no leader is heard by a quorum: standing for election", "partition", loggedPartition(e.Replica), "silent", e.For)
	case replication.LeadershipLost:
		j.log.Info("no longer leading", "partition", loggedPartition(e.Replica))
	case replication.ReplicaFailed:
		if !isWrong(e.Err) { // what is wrong for good is told with the quarantine
			j.log.Error("replica failed and serves nothing until the node is restarted", "partition", loggedPartition(e.Replica), "err", oneLine(e.Err))
		}
	case replication.DiskStalled:
		j.log.Error("disk stalled: heartbeats stopped so that others take over", "partition", loggedPartition(e.Replica), "for", e.For)
	case replication.DiskRecovered:
		j.log.Info("disk works again", "partition", loggedPartition(e.Replica))
	case replication.ApplyStalled:
		j.log.Error("applying has stalled: heartbeats stopped so that others take over", "partition", loggedPartition(e.Replica), "for", e.For)
	case replication.ApplyRecovered:
		j.log.Info("applying works again", "partition", loggedPartition(e.Replica))
	case replication.SnapshotFailed:
		j.log.Error("the raft log could not be cut", "partition", loggedPartition(e.Replica), "err", e.Err)
	case replication.RaftWarning:
		j.log.Debug("raft", "partition", loggedPartition(e.Replica), "line", e.Line)
	}
}

func (j journal) transport(e transport.Event) {
	switch e := e.(type) {
	case transport.Connected:
		j.log.Debug("connected", "peer", e.Peer.From, "dialed", e.Dialed)
	case transport.Disconnected:
		j.log.Info("disconnected", "peer", e.Peer, "err", e.Err)
	case transport.Refused:
		if errors.Is(e.Err, transport.ErrCut) {
			j.log.Debug("connection across a cut refused", "peer", e.Peer)
			return
		}
		if silent, due := j.refusals.due(fmt.Sprint(e.Peer, e.Incoming, innermost(e.Err))); due {
			j.log.Warn("connection refused", "peer", e.Peer, "incoming", e.Incoming, "err", e.Err, "silent_repeats", silent)
		}
	case transport.Rejected:
		j.log.Warn("a Raft message of a peer was refused as invalid; others of the next seconds are not logged",
			"peer", e.Peer, "partition", loggedPartition(e.Replica), "err", e.Err)
	case transport.Disowned:
		j.log.Warn("a replica of a peer has lost what it had acknowledged: it does not count here, and its node is told to stop",
			"peer", e.Peer, "replica", replicaName(e.Replica), "loss", e.Loss)
	case transport.Refuted:
		j.log.Error("a peer knows that this data directory is an older copy", "peer", e.Peer, "replica", replicaName(e.Replica), "loss", e.Loss)
	case transport.Panicked:
		j.log.Error("handling a message of a peer panicked; its connection was closed",
			"peer", e.Peer, "doing", e.Doing, "panic", e.Value, "stack", string(e.Stack))
	case transport.DialFailed:
		j.log.Debug("dial failed", "peer", e.Peer, "addr", e.Addr, "err", e.Err, "retry_in", e.Backoff)
	}
}

func (j journal) membership(e membership.Event) {
	switch e := e.(type) {
	case membership.MemberChanged:
		j.log.Info("member", "node", e.Member.ID, "status", e.Member.Status, "api", e.Member.APIAddr)
	case membership.Joined:
		j.log.Debug("joined gossip", "address", e.Address)
	case membership.JoinFailed:
		j.log.Debug("join address not reached, will be tried again", "address", e.Address, "err", e.Err)
	case membership.Refused:
		j.log.Warn("a member of another cluster was refused", "node", e.ID, "cluster", e.ClusterID)
	case membership.Logged:
		j.log.Debug("gossip", "level", e.Level, "text", e.Text)
	case membership.Dropped:
		j.log.Warn("gossip events dropped", "events", e.Events)
	}
}

func (j journal) formation(e formation.Event) {
	if e.Err != nil {
		j.log.Warn("no cluster yet", "err", e.Err)
		return
	}
	j.log.Info("forming", "decision", e.Action.Kind, "reason", e.Action.Reason)
}

func (j journal) state(e storage.Event) {
	switch e := e.(type) {
	case storage.EventDiskSlow:
		j.log.Warn("slow disk", "database", e.Database, "op", e.Op, "path", e.Path, "took", e.Took)
	case storage.EventDiskLow:
		j.log.Warn("disk space is low", "database", e.Database, "available", e.AvailableBytes, "total", e.TotalBytes)
	case storage.EventDiskFull:
		j.log.Error("disk full", "database", e.Database)
	case storage.EventBackgroundError:
		j.log.Error("background work failed, will be retried", "database", e.Database, "err", oneLine(e.Err))
	case storage.EventCorruption:
		j.log.Error("a table is damaged", "database", e.Database, "path", e.Path, "err", oneLine(e.Err))
	case storage.EventReplicaDamaged:
		j.log.Error("the state of a replica is damaged", "partition", loggedPartition(e.Replica), "err", e.Err)
	case storage.EventWriteStallBegin:
		j.log.Warn("writes wait for the database", "database", e.Database, "reason", e.Reason)
	case storage.EventWriteStallEnd:
		j.log.Info("writes go on", "database", e.Database)
	case storage.EventFatal:
		j.log.Error("database failed", "database", e.Database, "err", e.Err)
	}
}

func (j journal) diskLow(u diskUse) {
	if u.low() {
		j.log.Warn("the disk is nearly full: writes are refused, deletes are not", "free", u.free, "kept", u.reserve())
		return
	}
	j.log.Info("the disk has room again: writes are taken", "free", u.free, "kept", u.reserve())
}

func (j journal) exchange(e exchange.Event) {
	switch e := e.(type) {
	case exchange.HandInFailed:
		j.log.Debug("tentative writes not handed in, will be tried again", "partition", e.Partition, "leader", e.Leader, "writes", e.Writes, "err", e.Err)
	case exchange.Sent:
		j.log.Debug("tentative writes given", "partition", e.Partition, "to", e.To, "writes", e.Writes)
	case exchange.Received:
		j.log.Debug("tentative writes received", "partition", e.Partition, "from", e.From, "writes", e.Writes)
	case exchange.LogFailed:
		j.log.Error("tentative log failed", "partition", e.Partition, "err", e.Err)
	}
}

func (j journal) reports(e reports.Event) {
	switch e := e.(type) {
	case reports.FloorRaised:
		j.log.Debug("floor raised", "partition", e.Partition, "floor", e.Floor)
	case reports.Forfeited:
		j.log.Warn("a removed node's unpromoted writes are lost", "partition", e.Partition, "node", e.Node)
	case reports.Failed:
		j.log.Debug("floor or forfeit not proposed, will be tried again", "partition", e.Partition, "err", e.Err)
	case reports.HeldBack:
		j.log.Warn("a node holds back the dropping of tombstones; if it is gone for good, remove it",
			"node", e.Node, "partitions", e.Partitions, "since", e.Since)
	}
}

func (j journal) logDatabase(e storage.LogEvent) {
	switch e := e.(type) {
	case storage.LogDiskSlow:
		j.log.Warn("slow disk", "database", "log", "op", e.Op, "path", e.Path, "took", e.Duration)
	case storage.LogLowDiskSpace:
		j.log.Warn("disk space is low", "database", "log", "available", e.AvailableBytes, "total", e.TotalBytes)
	case storage.LogDiskFull:
		j.log.Error("disk full", "database", "log")
	case storage.LogBackgroundError:
		j.log.Error("background work failed, will be retried", "database", "log", "err", e.Err)
	case storage.LogWriteStall:
		if e.Ended {
			j.log.Info("writes go on", "database", "log")
		} else {
			j.log.Warn("writes wait for the database", "database", "log", "reason", e.Reason)
		}
	case storage.LogFailed:
		j.log.Error("database failed", "database", "log", "err", e.Err)
	}
}

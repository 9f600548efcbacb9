package node

import (
	"context"
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

// saveBookEvery is how often this node writes down what other replicas have shown:
// a kill loses at most that. More often would be more to write for each entry, and
// what is lost only makes this node notice less.
const saveBookEvery = time.Second

// openBook reads what this node has saved about the replicas of others.
func openBook(log *storage.Log) (*knowledge.Book, error) {
	saved, err := log.Peers()
	if err != nil {
		return nil, err
	}
	records := make(map[knowledge.Key]knowledge.Record, len(saved))
	for _, s := range saved {
		if records[s.PeerReplica], err = knowledge.DecodeRecord(s.Record); err != nil {
			return nil, fmt.Errorf("%s, replica %v: %w", s.Node, s.Replica, err)
		}
	}
	return knowledge.NewBook(records), nil
}

// bookKeeper saves the book.
type bookKeeper struct {
	book    *knowledge.Book
	log     *storage.Log
	journal journal
}

// run saves changes until ctx ends. gone are the nodes that were removed: their
// pages are erased.
func (k *bookKeeper) run(ctx context.Context, gone func() []partition.NodeID) {
	forgotten := map[partition.NodeID]bool{}
	tick := time.NewTicker(saveBookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var erase []storage.PeerRecord
		for _, node := range gone() {
			if forgotten[node] {
				continue
			}
			forgotten[node] = true
			for _, key := range k.book.Forget(node) {
				erase = append(erase, storage.PeerRecord{PeerReplica: key})
			}
		}
		if err := k.save(erase); err != nil && ctx.Err() == nil {
			// The log database has failed: the node ends for that reason.
			k.journal.log.Debug("what peers have shown was not saved", "err", err)
		}
	}
}

func (k *bookKeeper) save(records []storage.PeerRecord) error {
	for key, r := range k.book.Changes() {
		records = append(records, storage.PeerRecord{PeerReplica: key, Record: r.Encode()})
	}
	if len(records) == 0 {
		return nil
	}
	return k.log.SavePeers(records)
}

// close saves what came last, once the transport is closed.
func (k *bookKeeper) close() error {
	if k.log.Failure() == nil {
		return k.save(nil)
	}
	return nil // the log's own Close tells
}

// gone are the nodes that were removed from the cluster.
func (n *Node) gone() (nodes []partition.NodeID) {
	for _, removed := range n.ring().Removed() {
		nodes = append(nodes, removed.Node)
	}
	return nodes
}

// replicaName is a replica in a sentence for an operator.
func replicaName(r storage.Replica) string {
	if p, ok := r.Group.Partition(); ok {
		return fmt.Sprintf("partition %d", p)
	}
	return "the control group"
}

// refutation completes the sentence with which this node stops.
func refutation(e transport.Refuted) string {
	return fmt.Sprintf("it is an older copy: what its replica of %s had acknowledged to %s is lost (%v)",
		replicaName(e.Replica), e.Peer, e.Loss)
}

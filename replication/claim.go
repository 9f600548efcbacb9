package replication

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// Under these names the library keeps its stable values (raft.go:28).
const (
	stableTerm      = "CurrentTerm"
	stableVoteTerm  = "LastVoteTerm"
	stableCandidate = "LastVoteCand"
)

// claimOf is what the disk of a replica holds that is about to be opened, and for
// whom it voted last.
func claimOf(store Store, snapshots raft.SnapshotStore) (c knowledge.Claim, candidate raft.ServerID, err error) {
	number := func(name string) uint64 {
		n, failed := store.GetUint64([]byte(name))
		if failed != nil && !neverSet(failed) {
			err = errors.Join(err, fmt.Errorf("reading %s: %w", name, failed))
		}
		return n
	}
	c.Term, c.VoteTerm = number(stableTerm), number(stableVoteTerm)
	voted, failed := store.Get([]byte(stableCandidate))
	if failed != nil && !neverSet(failed) {
		err = errors.Join(err, fmt.Errorf("reading %s: %w", stableCandidate, failed))
	}
	last, failed := store.LastIndex()
	if err = errors.Join(err, failed); err != nil {
		return knowledge.Claim{}, "", err
	}
	if last > 0 {
		var e raft.Log
		if err := store.GetLog(last, &e); err != nil {
			return knowledge.Claim{}, "", fmt.Errorf("reading entry %d: %w", last, err)
		}
		c.End = knowledge.Entry{Term: e.Term, Index: e.Index}
	}
	metas, err := snapshots.List()
	if err != nil {
		return knowledge.Claim{}, "", err
	}
	if len(metas) > 0 {
		// A log that does not hold the snapshot's entry is of no account, however long:
		// it is of lower terms.
		if s := (knowledge.Entry{Term: metas[0].Term, Index: metas[0].Index}); s.Term > c.End.Term || s.Term == c.End.Term && s.Index > c.End.Index {
			c.End = s
		}
	}
	return c, raft.ServerID(voted), nil
}

// neverSet tells the error for a value that is not there, which has no type.
func neverSet(err error) bool { return err.Error() == "not found" }

// counted reports whether what a member of the group says counts.
func (g *Group) counted(m Member) bool {
	return g.host.peers.Counted(m.Node, storage.Replica{Group: g.replica.Group, Generation: m.Generation})
}

package transport

import (
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/logcheck"
)

// The Raft library believes what a peer sends: it stores an entry before it
// looks at it, and takes any term. So requests and answers are checked here.
// What fails is answered [ErrRefused], never reaches the library, and leaves the
// connection as it is: other groups use it too.

// ownTerm is a replica's own term, as its requests and answers have told it. A
// peer's term counts only once the replica has taken it: each step costs a write.
type ownTerm struct{ term atomic.Uint64 }

// check refuses a peer's term that no election can have reached.
func (o *ownTerm) check(term uint64) error {
	if own := o.term.Load(); term > logcheck.MaxTerm || term > own+logcheck.MaxTermStep {
		return fmt.Errorf("%w: term %d, this replica is at %d", logcheck.ErrInvalid, term, own)
	}
	return nil
}

func (o *ownTerm) raise(term uint64) {
	for {
		own := o.term.Load()
		if term <= own || o.term.CompareAndSwap(own, term) {
			return
		}
	}
}

// raiseBy notes the term in an answer of this replica. A pre-vote's answer
// repeats the request's term, which the replica has not taken.
func (o *ownTerm) raiseBy(response any) {
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		o.raise(r.Term)
	case *raft.RequestVoteResponse:
		o.raise(r.Term)
	case *raft.InstallSnapshotResponse:
		o.raise(r.Term)
	}
}

// checkRequest refuses what no replica of this build sends, and what the
// library would not survive. It also holds a commit index to Raft's own rule:
// the last entry that the request itself vouches for.
func (g *GroupTransport) checkRequest(request any) error {
	switch r := request.(type) {
	case *raft.AppendEntriesRequest:
		if err := checkAppend(r); err != nil {
			return err
		}
		if check := g.content.Load(); check != nil {
			for _, e := range r.Entries {
				if e.Type != raft.LogCommand {
					continue
				}
				if err := (*check)(e.Data); err != nil {
					return fmt.Errorf("%w: entry %d of term %d: %w", logcheck.ErrInvalid, e.Index, e.Term, err)
				}
			}
		}
		return g.own.check(r.Term)
	case *raft.RequestVoteRequest:
		if err := checkLast(r.Term, r.LastLogIndex, r.LastLogTerm); err != nil {
			return err
		}
		return g.own.check(r.Term)
	case *raft.RequestPreVoteRequest:
		if err := checkLast(r.Term, r.LastLogIndex, r.LastLogTerm); err != nil {
			return err
		}
		return g.own.check(r.Term)
	case *raft.InstallSnapshotRequest:
		if err := checkSnapshot(r); err != nil {
			return err
		}
		return g.own.check(r.Term)
	}
	return nil
}

func checkAppend(r *raft.AppendEntriesRequest) error {
	if err := checkLast(r.Term, r.PrevLogEntry, r.PrevLogTerm); err != nil {
		return err
	}
	index, term := r.PrevLogEntry, r.PrevLogTerm
	for _, e := range r.Entries {
		if err := logcheck.Entry(e); err != nil {
			return err
		}
		if e.Index != index+1 || e.Term < term || e.Term > r.Term {
			return fmt.Errorf("%w: entry %d of term %d behind entry %d of term %d, sent in term %d",
				logcheck.ErrInvalid, e.Index, e.Term, index, term, r.Term)
		}
		index, term = e.Index, e.Term
	}
	r.LeaderCommitIndex = min(r.LeaderCommitIndex, index)
	return nil
}

// checkLast checks the entry up to which a sender speaks of its log. None is
// index and term 0.
func checkLast(sent, index, term uint64) error {
	if index == 0 && term == 0 {
		return nil
	}
	if err := logcheck.Position(index, term); err != nil {
		return err
	}
	if term > sent {
		return fmt.Errorf("%w: entry %d of term %d, sent in term %d", logcheck.ErrInvalid, index, term, sent)
	}
	return nil
}

func checkSnapshot(r *raft.InstallSnapshotRequest) error {
	if err := logcheck.Position(r.LastLogIndex, r.LastLogTerm); err != nil {
		return err
	}
	if r.SnapshotVersion != 1 || len(r.Peers) > 0 || r.LastLogTerm > r.Term || r.ConfigurationIndex > r.LastLogIndex || r.Size < 0 {
		return fmt.Errorf("%w: snapshot of version %d up to entry %d of term %d, configuration %d, sent in term %d",
			logcheck.ErrInvalid, r.SnapshotVersion, r.LastLogIndex, r.LastLogTerm, r.ConfigurationIndex, r.Term)
	}
	_, err := logcheck.Configuration(r.Configuration)
	return err
}

// checkResponse refuses an answer with a term that no election can have reached.
func (g *GroupTransport) checkResponse(response any) error {
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		return g.own.check(r.Term)
	case *raft.RequestVoteResponse:
		return g.own.check(r.Term)
	case *raft.RequestPreVoteResponse:
		return g.own.check(r.Term)
	case *raft.InstallSnapshotResponse:
		return g.own.check(r.Term)
	}
	return nil
}

package client

import (
	"context"
	"iter"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Conflict is one eventual write that lost to another and was kept for a look.
type Conflict struct {
	Key            []byte
	LosingValue    []byte
	LosingDelete   bool // the loser was a delete
	LosingVersion  Version
	WinningVersion Version
	Time           time.Time // when it lost, by the clock of the partition's leader
	Cause          capstanv1.ConflictCause
	LosingBase     uint64 // the log index that the loser's node had heard of
}

// ConflictOf is one conflict of a message.
func ConflictOf(m *capstanv1.Conflict) Conflict {
	return Conflict{
		Key: m.GetKey(), LosingValue: m.GetLosingValue(), LosingDelete: m.GetLosingDelete(),
		LosingVersion: versionOf(m.GetLosingVersion()), WinningVersion: versionOf(m.GetWinningVersion()),
		Time: m.GetTime().AsTime(), Cause: m.GetCause(), LosingBase: m.GetLosingBase(),
	}
}

// Conflicts lists the writes that lost, in byte order of their keys. The list is
// bounded by size and age. The last thing it gives is an error if the list did
// not come to its end. Stopping early is fine.
func (c *Client) Conflicts(ctx context.Context, opts ...ConflictsOption) iter.Seq2[Conflict, error] {
	return func(yield func(Conflict, error) bool) {
		for m, err := range c.ConflictMessages(ctx, opts...) {
			if err != nil {
				yield(Conflict{}, err)
				return
			}
			for _, one := range m.GetConflicts() {
				if !yield(ConflictOf(one), nil) {
					return
				}
			}
		}
	}
}

// ConflictMessages is Conflicts with the messages as they come: many conflicts
// each. The last one says how many are listed no more.
func (c *Client) ConflictMessages(ctx context.Context, opts ...ConflictsOption) iter.Seq2[*capstanv1.ListConflictsResponse, error] {
	var s settings
	for _, o := range opts {
		o.forList(&s)
	}
	request := &capstanv1.ListConflictsRequest{Prefix: s.prefix, Limit: s.limit}
	return func(yield func(*capstanv1.ListConflictsResponse, error) bool) {
		ctx, cancel := c.bounded(ctx)
		defer cancel()
		stopped, err := stream(ctx, c, call{op: "conflicts"}, s, streamCall[capstanv1.ListConflictsResponse]{
			open: func(ctx context.Context, n *node) (*connect.ServerStreamForClient[capstanv1.ListConflictsResponse], error) {
				return n.kv.ListConflicts(ctx, request)
			},
			give: func(m *capstanv1.ListConflictsResponse) bool { return yield(m, nil) },
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

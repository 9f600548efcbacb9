package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// Who is asked, for how long, and with what result.
func TestAskInTurn(t *testing.T) {
	lagging := &replication.Error{Reason: replication.SessionBehind, Outcome: replication.NotApplied}
	const silent = time.Hour
	type node struct {
		after time.Duration
		err   error
	}
	for _, test := range []struct {
		name    string
		nodes   []node
		count   int
		found   []partition.NodeID
		refused error
		asked   int
		took    time.Duration
	}{
		{"the first answers", []node{{time.Millisecond, nil}, {0, nil}}, 1, []partition.NodeID{"a"}, nil, 1, time.Millisecond},
		{"nobody there", nil, 1, nil, nil, 0, 0},
		{"the first is silent", []node{{silent, nil}, {time.Millisecond, nil}}, 1, []partition.NodeID{"b"}, nil, 2, askHedge + time.Millisecond},
		{"the first is slow", []node{{askHedge + 5*time.Millisecond, nil}, {silent, nil}}, 1, []partition.NodeID{"a"}, nil, 2, askHedge + 5*time.Millisecond},
		{"the first refuses", []node{{time.Millisecond, lagging}, {time.Millisecond, nil}}, 1, []partition.NodeID{"b"}, lagging, 2, 2 * time.Millisecond},
		{"all are silent", []node{{silent, nil}, {silent, nil}}, 1, nil, nil, 2, askHedge + askPatience},
		{
			"a refusal tells more than silence", []node{{time.Millisecond, &notReached}, {time.Millisecond, lagging}, {time.Millisecond, &leaderLost}},
			1, nil, lagging, 3, 3 * time.Millisecond,
		},
		{"two of three", []node{{3 * time.Millisecond, nil}, {time.Millisecond, nil}, {0, nil}}, 2, []partition.NodeID{"b", "a"}, nil, 2, 3 * time.Millisecond},
		{"all of three, one silent", []node{{silent, nil}, {0, nil}, {time.Millisecond, nil}}, 3, []partition.NodeID{"b", "c"}, nil, 3, askPatience},
		{"more than there are", []node{{0, nil}}, 3, []partition.NodeID{"a"}, nil, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var nodes []partition.NodeID
				for i := range test.nodes {
					nodes = append(nodes, partition.NodeID(rune('a'+i)))
				}
				asked := make(chan struct{}, len(nodes))
				began := time.Now()
				found, refused := askInTurn(t.Context(), asking{nodes, test.count, askPatience},
					func(ctx context.Context, id partition.NodeID) (string, error) {
						asked <- struct{}{}
						n := test.nodes[slices.Index(nodes, id)]
						timer := time.NewTimer(n.after)
						defer timer.Stop()
						select {
						case <-timer.C:
							return string(id), n.err
						case <-ctx.Done():
							return "", ctx.Err()
						}
					})
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				var from []partition.NodeID
				for _, a := range found {
					if a.answer != string(a.from) {
						t.Errorf("answer %q of %s", a.answer, a.from)
					}
					from = append(from, a.from)
				}
				if !slices.Equal(from, test.found) || len(asked) != test.asked {
					t.Errorf("answers of %v, %d asked; want %v, %d", from, len(asked), test.found, test.asked)
				}
				if isRefusal(refused) != (test.refused != nil) || test.refused != nil && !errors.Is(refused, test.refused) {
					t.Errorf("refused with %v, want %v", refused, test.refused)
				}
			})
		})
	}
}

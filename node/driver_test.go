package node

import (
	"testing"

	"github.com/capstan-kv/capstan/partition"
)

func TestNoLeadershipForThoseThatLag(t *testing.T) {
	statuses := map[partition.NodeID]nodeStatus{
		"n1": {Node: "n1", Groups: []groupStatus{{Partition: 3, Leads: true, Term: 2, Commit: 1000, Applied: 1000}}},
		"n2": {Node: "n2", Groups: []groupStatus{{Partition: 3, Commit: 990, Applied: 990}}},
		"n3": {Node: "n3", Groups: []groupStatus{{Partition: 3, Commit: 10, Applied: 10}}},
		"n4": {Node: "n4"},
	}
	for to, want := range map[partition.NodeID]bool{"n2": false, "n3": true, "n4": true, "n5": true} {
		if got := lags(statuses, partition.Transfer{Partition: 3, From: "n1", To: to}); got != want {
			t.Errorf("%s lags: %v", to, got)
		}
	}
}

// A node that was registered and has not heard of it yet follows nothing: with
// its vote the control group would need it for a leader, and only a leader can
// tell it.
func TestNoControlVoteForThoseThatFollowNothing(t *testing.T) {
	for _, test := range []struct {
		applied, commit uint64
		want            bool
	}{
		{0, 1, true}, {0, 1000, true}, {1, 3, false}, {900, 1000, true}, {1000, 1000, false}, {1000, 1000 + caughtUpWithin, false},
	} {
		if got := noVoteYet(test.applied, test.commit); got != test.want {
			t.Errorf("applied %d of %d: %v", test.applied, test.commit, got)
		}
	}
}

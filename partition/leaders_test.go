package partition_test

import (
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

func TestLeadersSpreadWhenANodeReturns(t *testing.T) {
	a := make(partition.Assignment, 16)
	leaders := make([]partition.NodeID, 16)
	for p := range a {
		a[p] = partition.ReplicaSet{"n1", "n2", "n3"}
		leaders[p] = a[p][p%2] // n3 was away: n1 and n2 lead 8 each
	}
	all := map[partition.NodeID]bool{"n1": true, "n2": true, "n3": true}
	transfers := partition.PlanLeaders(leaders, a, all)
	if len(transfers) != 4 { // 6, 6 and 4
		t.Fatalf("%v", transfers)
	}
	for _, tr := range transfers {
		if tr.To != "n3" {
			t.Errorf("%s", tr)
		}
	}
	if got, want := transfers[0].String(), "partition 0: lead n1 -> n3"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if more := partition.PlanLeaders(leaders, a, map[partition.NodeID]bool{"n1": true, "n2": true}); more != nil {
		t.Errorf("while n3 is away: %v", more)
	}
}

func TestADrainedNodeLeadsNothing(t *testing.T) {
	a := partition.Assignment{{"n1", "n2"}, {"n2", "n1"}, {"n1"}}
	transfers := partition.PlanLeaders([]partition.NodeID{"n1", "n2", "n1"}, a, map[partition.NodeID]bool{"n2": true})
	if len(transfers) != 1 || transfers[0] != (partition.Transfer{Partition: 0, From: "n1", To: "n2"}) {
		t.Fatalf("%v", transfers) // partition 2 has nobody to go to
	}
}

func TestPreferredLeadersAreTakenWhereItCostsNothing(t *testing.T) {
	// n1 leads all of four partitions and must give up two, of which the
	// preferred leaders of partitions 1 and 2 are the cheaper ones to make lead.
	a := partition.Assignment{{"n1", "n2"}, {"n2", "n1"}, {"n2", "n1"}, {"n1", "n2"}}
	transfers := partition.PlanLeaders([]partition.NodeID{"n1", "n1", "n1", "n1"}, a, map[partition.NodeID]bool{"n1": true, "n2": true})
	if len(transfers) != 2 || transfers[0].Partition != 1 || transfers[1].Partition != 2 {
		t.Fatalf("%v", transfers)
	}
}

func TestPlanLeadersProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		on := drawNodes(t, 1, 8)
		a := partition.Place(partition.PlaceInput{Partitions: drawPartitions(t, 6), ReplicationFactor: rapid.IntRange(1, 4).Draw(t, "rf"), Nodes: on})
		willing := map[partition.NodeID]bool{}
		for _, n := range on {
			willing[n.ID] = rapid.IntRange(0, 3).Draw(t, "away") > 0
		}
		leaders := make([]partition.NodeID, len(a))
		for p, set := range a {
			if rapid.IntRange(0, 9).Draw(t, "no leader") > 0 {
				leaders[p] = rapid.SampledFrom(set).Draw(t, "leader")
			}
		}
		leads := map[partition.NodeID]int{}
		must, movable := 0, map[int]bool{}
		for p, set := range a {
			able := false
			for _, n := range set {
				able = able || willing[n]
			}
			if leaders[p] == "" || !able {
				continue
			}
			movable[p] = true
			if willing[leaders[p]] {
				leads[leaders[p]]++
			} else {
				must++
			}
		}
		limit := partition.LeaderLimit(a, willing)
		least := must
		for _, n := range leads {
			least += max(0, n-limit)
		}
		transfers := partition.PlanLeaders(leaders, a, willing)
		if len(transfers) < least {
			t.Fatalf("%d transfers, at least %d are needed", len(transfers), least)
		}
		for _, tr := range transfers {
			if !movable[int(tr.Partition)] || leaders[tr.Partition] != tr.From {
				t.Fatalf("%s: led by %q", tr, leaders[tr.Partition])
			}
			leaders[tr.Partition] = tr.To
		}
		after := map[partition.NodeID]int{}
		for p, n := range leaders {
			if !movable[p] {
				continue
			}
			if !willing[n] {
				t.Fatalf("partition %d is led by %s, which is not willing", p, n)
			}
			if after[n]++; after[n] > limit {
				t.Fatalf("%s leads more than %d", n, limit)
			}
		}
		if more := partition.PlanLeaders(leaders, a, willing); len(more) > 0 {
			t.Fatalf("more transfers after the plan: %v", more)
		}
	})
}

// In a world small enough to try every choice of leaders, none that keeps the
// limit changes fewer of them, and none keeps a lower limit that an equal
// share would allow.
func TestPlanLeadersTransfersNoMoreThanAnyChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := []partition.NodeID{"n1", "n2", "n3", "n4"}
		a := make(partition.Assignment, rapid.IntRange(1, 5).Draw(t, "partitions"))
		leaders := make([]partition.NodeID, len(a))
		willing, nodes := map[partition.NodeID]bool{}, map[partition.NodeID]bool{}
		for _, n := range ids {
			willing[n] = true
		}
		for p := range a {
			a[p] = rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 1, 3, rapid.ID[partition.NodeID]).Draw(t, "set")
			leaders[p] = rapid.SampledFrom(a[p]).Draw(t, "leader")
			for _, n := range a[p] {
				nodes[n] = true
			}
		}
		// fewest is the fewest changes within a limit, or -1 if it cannot be kept.
		fewest := func(limit int) int {
			best, counts := -1, map[partition.NodeID]int{}
			var try func(p, changes int)
			try = func(p, changes int) {
				if p == len(a) {
					if best < 0 || changes < best {
						best = changes
					}
					return
				}
				for _, n := range a[p] {
					if counts[n] == limit {
						continue
					}
					counts[n]++
					if n == leaders[p] {
						try(p+1, changes)
					} else {
						try(p+1, changes+1)
					}
					counts[n]--
				}
			}
			try(0, 0)
			return best
		}
		limit := (len(a) + len(nodes) - 1) / len(nodes)
		for fewest(limit) < 0 {
			limit++
		}
		if got := partition.LeaderLimit(a, willing); got != limit {
			t.Fatalf("limit %d, want %d", got, limit)
		}
		if got, want := len(partition.PlanLeaders(leaders, a, willing)), fewest(limit); got != want {
			t.Fatalf("%d transfers, %d would do", got, want)
		}
	})
}

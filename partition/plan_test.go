package partition_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

func TestANodeJoins(t *testing.T) {
	on := nodes(4)
	a := partition.Place(partition.PlaceInput{Partitions: 16, ReplicationFactor: 3, Nodes: on[:3]})
	moves := partition.Plan(a, on, 3)
	if len(moves) != 12 { // 48 replicas on 4 nodes
		t.Fatalf("%d moves: %v", len(moves), moves)
	}
	for _, m := range moves {
		if m.To != on[3].ID || m.From == "" {
			t.Errorf("%s", m)
		}
	}
}

func TestANodeLeavesAndNobodyCanTakeOver(t *testing.T) {
	on := nodes(3)
	a := partition.Place(partition.PlaceInput{Partitions: 4, ReplicationFactor: 3, Nodes: on})
	for _, m := range partition.Plan(a, on[:2], 3) {
		if m.From != on[2].ID || m.To != "" {
			t.Errorf("%s", m)
		}
	}
	if moves := partition.Plan(a, nil, 3); moves != nil {
		t.Errorf("without nodes: %v", moves)
	}
}

func TestMoveString(t *testing.T) {
	for want, m := range map[string]partition.Move{
		"partition 3: n1-a -> n4-b": {Partition: 3, From: "n1-a", To: "n4-b"},
		"partition 3: add n4-b":     {Partition: 3, To: "n4-b"},
		"partition 3: remove n1-a":  {Partition: 3, From: "n1-a"},
	} {
		if got := m.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMovesThatDoNotFitAreRefused(t *testing.T) {
	a := partition.Assignment{{"n1", "n2"}}
	for _, m := range []partition.Move{{}, {Partition: 1, To: "n3"}, {From: "n3", To: "n4"}, {From: "n1", To: "n2"}, {To: "n2"}} {
		if got, err := a.Moved(m); err == nil {
			t.Errorf("%s gave %v", m, got)
		}
	}
}

// Nodes come and go, zones change, the replication factor too: after the
// moves everything is within the bounds, their number is no less than what any
// plan must do, and then there is peace.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		on := drawNodes(t, 1, 9)
		rf := rapid.IntRange(1, 5).Draw(t, "rf")
		a := partition.Place(partition.PlaceInput{Partitions: drawPartitions(t, 6), ReplicationFactor: rf, Nodes: on})
		for range 4 {
			before := slices.Clone(on)
			switch {
			case len(on) > 1 && rapid.Bool().Draw(t, "leaves"):
				i := rapid.IntRange(0, len(on)-1).Draw(t, "who")
				on = slices.Delete(slices.Clone(on), i, i+1)
			default:
				zone := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
				id := rapid.StringMatching(`m[0-9]-[a-z]{4}`).Draw(t, "id")
				on = append(slices.Clone(on), partition.Node{ID: partition.NodeID(id), Zone: zone})
				on = slices.CompactFunc(on, func(a, b partition.Node) bool { return a.ID == b.ID })
			}
			moves := partition.Plan(a, on, rf)
			if again := partition.Plan(a, rapid.Permutation(on).Draw(t, "order"), rf); !reflect.DeepEqual(moves, again) {
				t.Fatalf("another order, another plan:\n%v\n%v", moves, again)
			}
			next, err := a.Moved(moves...)
			if err != nil {
				t.Fatal(err)
			}
			checkPlacement(t, next, on, rf)
			checkFewest(t, a, next, moves, before, on, rf)
			if more := partition.Plan(next, on, rf); len(more) > 0 {
				t.Fatalf("more moves after the plan: %v", more)
			}
			a = next
		}
	})
}

// checkFewest compares with what no plan can avoid: replicas on nodes that are
// gone, those above a node's share, and those that a node lacks to its own.
// Without zones and with replica sets of the same size that much is also
// enough.
func checkFewest(t *rapid.T, a, next partition.Assignment, moves []partition.Move, before, on []partition.Node, rf int) {
	b, loads := partition.BoundsOf(len(a), rf, on), a.Loads()
	gone, over, lacking := 0, 0, 0
	for id, load := range loads {
		if share, ok := b.Shares[id]; ok {
			over += max(0, load-share.High)
		} else {
			gone += load
		}
	}
	zones := map[string]bool{}
	for _, n := range on {
		lacking += max(0, b.Shares[n.ID].Low-loads[n.ID])
		zones[n.Zone] = true
	}
	for _, n := range before {
		zones[n.Zone] = true
	}
	least := max(gone+over, lacking)
	if len(moves) < least {
		t.Fatalf("%d moves, at least %d are needed: a check is wrong", len(moves), least)
	}
	if len(zones) == 1 && min(rf, len(before)) == min(rf, len(on)) && len(moves) != least {
		t.Fatalf("%d moves, %d would do: %v", len(moves), least, moves)
	}
}

// In a world small enough to try every placement, none that keeps the bounds
// keeps more replicas.
func TestPlanKeepsAsManyReplicasAsAnyPlacement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		on := drawNodes(t, 1, 4)
		partitions, rf := drawPartitions(t, 2), rapid.IntRange(1, 3).Draw(t, "rf")
		current := make(partition.Assignment, partitions)
		ids := []partition.NodeID{"gone-1", "gone-2"}
		for _, n := range on {
			ids = append(ids, n.ID)
		}
		for p := range current {
			current[p] = rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 3, rapid.ID[partition.NodeID]).Draw(t, "set")
		}
		moves := partition.Plan(current, on, rf)
		next, err := current.Moved(moves...)
		if err != nil {
			t.Fatal(err)
		}
		checkPlacement(t, next, on, rf)
		if got, want := kept(current, next), mostKept(current, on, rf); got != want {
			t.Fatalf("%d replicas stay, %d could: %v", got, want, moves)
		}
	})
}

func kept(a, b partition.Assignment) (n int) {
	for p := range a {
		for _, id := range a[p] {
			if slices.Contains(b[p], id) {
				n++
			}
		}
	}
	return n
}

// mostKept tries every placement within the bounds.
func mostKept(current partition.Assignment, on []partition.Node, rf int) int {
	b := partition.BoundsOf(len(current), rf, on)
	loads := make([]int, len(on))
	var try func(p int) int
	try = func(p int) int {
		if p == len(current) {
			for i, n := range on {
				if loads[i] < b.Shares[n.ID].Low || loads[i] > b.Shares[n.ID].High {
					return -1 << 30
				}
			}
			return 0
		}
		best := -1 << 30
		for set := range 1 << len(on) {
			size, here, zones, fits := 0, 0, map[string]int{}, true
			for i, n := range on {
				if set&(1<<i) == 0 {
					continue
				}
				size++
				zones[n.Zone]++
				fits = fits && zones[n.Zone] <= b.ZoneLimit
				if slices.Contains(current[p], n.ID) {
					here++
				}
			}
			if size != b.Replicas || !fits {
				continue
			}
			for i := range on {
				loads[i] += set >> i & 1
			}
			best = max(best, here+try(p+1))
			for i := range on {
				loads[i] -= set >> i & 1
			}
		}
		return best
	}
	return try(0)
}

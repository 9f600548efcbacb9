package partition_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

// names n1 to nN, in zones if zones are given: one name a node.
func nodes(n int, zones ...string) []partition.Node {
	var all []partition.Node
	for i := range n {
		node := partition.Node{ID: partition.NodeID(fmt.Sprintf("n%d-%04x", i+1, i*7919))}
		if len(zones) > 0 {
			node.Zone = zones[i%len(zones)]
		}
		all = append(all, node)
	}
	return all
}

func drawNodes(t *rapid.T, least, most int) []partition.Node {
	zones := []string{"", "a", "b", "c", "d"}[:rapid.IntRange(1, 5).Draw(t, "zones")]
	all := nodes(rapid.IntRange(least, most).Draw(t, "nodes"))
	for i := range all {
		all[i].Zone = rapid.SampledFrom(zones).Draw(t, "zone")
	}
	return all
}

func drawPartitions(t *rapid.T, mostBits int) int {
	return 1 << rapid.IntRange(0, mostBits).Draw(t, "partition bits")
}

// checkPlacement holds an assignment to what the package promises.
func checkPlacement(t rapid.TB, a partition.Assignment, on []partition.Node, replicationFactor int) {
	t.Helper()
	zoneOf, zones := map[partition.NodeID]string{}, map[string]int{}
	for _, n := range on {
		zoneOf[n.ID] = n.Zone
		zones[n.Zone]++
	}
	replicas := min(replicationFactor, len(on))
	for p, set := range a {
		if len(set) != replicas {
			t.Fatalf("partition %d has %d replicas, want %d", p, len(set), replicas)
		}
		seen, inZone := map[partition.NodeID]bool{}, map[string]int{}
		for _, n := range set {
			zone, ok := zoneOf[n]
			if !ok || seen[n] {
				t.Fatalf("partition %d: %v has a stranger or one node twice", p, set)
			}
			seen[n] = true
			inZone[zone]++
			if len(zones) >= replicationFactor && inZone[zone] > 1 {
				t.Fatalf("partition %d: %v has two replicas in zone %q of %d zones", p, set, zone, len(zones))
			}
		}
		// Where zones do not suffice: as few in one zone as their sizes allow.
		if limit := zoneLimit(zones, replicas); slices.Max(append(valuesOf(inZone), 0)) > limit {
			t.Fatalf("partition %d: %v has more than %d replicas in one zone", p, set, limit)
		}
	}
	b := partition.BoundsOf(len(a), replicationFactor, on)
	loads := a.Loads()
	for _, n := range on {
		if s := b.Shares[n.ID]; loads[n.ID] < s.Low || loads[n.ID] > s.High {
			t.Fatalf("%s holds %d replicas, not %d to %d", n.ID, loads[n.ID], s.Low, s.High)
		}
	}
}

func valuesOf(m map[string]int) (v []int) {
	for _, n := range m {
		v = append(v, n)
	}
	return v
}

func zoneLimit(zones map[string]int, replicas int) int {
	for limit := 0; ; limit++ {
		room := 0
		for _, size := range zones {
			room += min(limit, size)
		}
		if room >= replicas {
			return limit
		}
	}
}

func TestThreeNodesHoldEverything(t *testing.T) {
	on := nodes(3)
	a := partition.Place(partition.PlaceInput{Partitions: 16, ReplicationFactor: 3, Nodes: on})
	checkPlacement(t, a, on, 3)
	leads := map[partition.NodeID]int{}
	for _, set := range a {
		leads[set[0]]++
	}
	for _, n := range on {
		if leads[n.ID] < 5 || leads[n.ID] > 6 {
			t.Errorf("%s is to lead %d of 16", n.ID, leads[n.ID])
		}
	}
}

func TestFewerNodesThanReplicas(t *testing.T) {
	for n := range 3 {
		on := nodes(n)
		a := partition.Place(partition.PlaceInput{Partitions: 4, ReplicationFactor: 3, Nodes: on})
		checkPlacement(t, a, on, 3)
	}
	on := nodes(1)
	one := partition.Place(partition.PlaceInput{Partitions: 1, ReplicationFactor: 1, Nodes: on})
	checkPlacement(t, one, on, 1)
}

func TestSharesFollowTheZones(t *testing.T) {
	// One node alone in its zone holds a replica of every partition; the
	// others share the rest.
	on := []partition.Node{{ID: "a1", Zone: "a"}, {ID: "b1", Zone: "b"}, {ID: "b2", Zone: "b"}, {ID: "c1", Zone: "c"}, {ID: "c2", Zone: "c"}}
	b := partition.BoundsOf(16, 3, on)
	want := map[partition.NodeID]partition.Share{"a1": {16, 16}, "b1": {8, 8}, "b2": {8, 8}, "c1": {8, 8}, "c2": {8, 8}}
	if b.ZoneLimit != 1 || !reflect.DeepEqual(b.Shares, want) {
		t.Fatalf("bounds %+v", b)
	}
	// Without zones, 48 replicas on 5 nodes are 9 or 10 each.
	if got := partition.BoundsOf(16, 3, nodes(5)).Shares["n1-0000"]; got != (partition.Share{Low: 9, High: 10}) {
		t.Fatalf("share %+v", got)
	}
}

func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		on := drawNodes(t, 1, 12)
		in := partition.PlaceInput{Partitions: drawPartitions(t, 7), ReplicationFactor: rapid.IntRange(1, 7).Draw(t, "rf"), Nodes: on}
		a := partition.Place(in)
		checkPlacement(t, a, on, in.ReplicationFactor)

		willing, leads := map[partition.NodeID]bool{}, map[partition.NodeID]int{}
		for _, n := range on {
			willing[n.ID] = true
		}
		for _, set := range a {
			leads[set[0]]++
		}
		limit := partition.LeaderLimit(a, willing)
		for n, count := range leads {
			if count > limit {
				t.Fatalf("%s is to lead %d, at most %d", n, count, limit)
			}
		}

		in.Nodes = rapid.Permutation(on).Draw(t, "order")
		if again := partition.Place(in); !reflect.DeepEqual(a, again) {
			t.Fatalf("another order, another placement:\n%v\n%v", a, again)
		}
		if moves := partition.Plan(a, in.Nodes, in.ReplicationFactor); len(moves) > 0 {
			t.Fatalf("a fresh placement is to be changed: %v", moves)
		}
	})
}

func TestTheLargestCluster(t *testing.T) {
	on := nodes(100, "a", "b", "c")
	a := partition.Place(partition.PlaceInput{Partitions: partition.MaxCount, ReplicationFactor: 3, Nodes: on})
	checkPlacement(t, a, on, 3)
	fewer := on[:90]
	moves := partition.Plan(a, fewer, 3)
	b, err := a.Moved(moves...)
	if err != nil {
		t.Fatal(err)
	}
	checkPlacement(t, b, fewer, 3)
}

func TestRingKeepsItsOrderWhenANodeComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawNodes(t, 2, 20)
		gone := rapid.SampledFrom(all).Draw(t, "gone")
		from := rapid.Uint64().Draw(t, "from")
		var with, without []partition.Node
		for n := range partition.NewRing(all).Walk(from) {
			if n != gone {
				with = append(with, n)
			}
		}
		fewer := slices.DeleteFunc(slices.Clone(all), func(n partition.Node) bool { return n == gone })
		for n := range partition.NewRing(fewer).Walk(from) {
			without = append(without, n)
		}
		if len(with) != len(all)-1 || !slices.Equal(with, without) {
			t.Fatalf("with %v: %v\nwithout: %v", gone.ID, with, without)
		}
	})
}

func TestRingArcsAreEven(t *testing.T) {
	ring, owned := partition.NewRing(nodes(10)), map[partition.NodeID]int{}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		for n := range ring.Walk(random.Uint64()) {
			owned[n.ID]++
			break
		}
	}
	for n, points := range owned {
		if points < 1400 || points > 2600 {
			t.Errorf("%s owns %d of 20,000 points, 2,000 were fair", n, points)
		}
	}
}

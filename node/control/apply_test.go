package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

func found(partitions, replicationFactor, expect int) control.Command {
	return control.Command{Found: &control.Found{ClusterID: "c-1", Settings: control.Settings{
		Partitions: partitions, ReplicationFactor: replicationFactor, BootstrapExpect: expect, CreatedUnixMs: 1_789_000_000_000,
	}}}
}

// node n1-aaaa at its first start, listening at an address of its name.
func node(id partition.NodeID) control.Node {
	name := string(id[:len(id)-5])
	return control.Node{
		ID: id, Name: name, API: name + ":7820", Peer: name + ":7821", Gossip: name + ":7822",
		Version: "0.1.0", StartCounter: 1, Incarnation: 1, State: control.Alive,
	}
}

func register(n control.Node) control.Command {
	return control.Command{RegisterNode: &control.RegisterNode{Node: n}}
}

// registerAfter registers a start of a directory that knows of the previous one.
func registerAfter(previous control.Start, n control.Node) control.Command {
	return control.Command{RegisterNode: &control.RegisterNode{Node: n, Previous: &previous}}
}

// at is n1-aaaa at a start.
func at(start, incarnation uint64) control.Node {
	return with(node("n1-aaaa"), func(n *control.Node) { n.StartCounter, n.Incarnation = start, incarnation })
}

func set(id partition.NodeID, to control.NodeState) control.Command {
	return control.Command{SetNodeState: &control.SetNodeState{Node: id, State: to}}
}

func place(sets ...partition.ReplicaSet) control.Command {
	return control.Command{Place: &control.Place{Assignment: sets}}
}

func add(p partition.ID, id partition.NodeID, generation uint32) control.Command {
	return control.Command{AddReplica: &control.AddReplica{Partition: p, Node: id, Generation: generation}}
}

func promote(p partition.ID, id partition.NodeID, generation uint32) control.Command {
	return control.Command{PromoteReplica: &control.PromoteReplica{Partition: p, Node: id, Generation: generation}}
}

func remove(p partition.ID, id partition.NodeID, generation uint32) control.Command {
	return control.Command{RemoveReplica: &control.RemoveReplica{Partition: p, Node: id, Generation: generation}}
}

func removeNode(id partition.NodeID) control.Command {
	return control.Command{RemoveNode: &control.RemoveNode{Node: id}}
}

// after applies commands that must all be accepted.
func after(t *testing.T, commands ...control.Command) *control.State {
	t.Helper()
	s := &control.State{}
	for _, c := range commands {
		next, result := control.Apply(s, c)
		if err := result.Err(); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if err := next.Check(); err != nil {
			t.Fatalf("after %s: %v", c, err)
		}
		s = next
	}
	return s
}

func young(t *testing.T, more ...control.Command) *control.State {
	t.Helper()
	return after(t, append([]control.Command{
		found(2, 3, 3), register(node("n1-aaaa")), register(node("n2-bbbb")), register(node("n3-cccc")),
	}, more...)...)
}

func with(n control.Node, change func(*control.Node)) control.Node {
	change(&n)
	return n
}

func TestRefusals(t *testing.T) {
	placed := place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb"}, partition.ReplicaSet{"n3-cccc"})
	n1 := node("n1-aaaa")
	for _, c := range []struct {
		name    string
		before  []control.Command // on top of a young cluster of three
		command control.Command
		reason  control.Reason
	}{
		{"a second founding", nil, found(2, 3, 3), control.AlreadyFounded},
		{"no command", nil, control.Command{}, control.Invalid},
		{"two commands in one", nil, control.Command{Found: found(2, 3, 3).Found, Place: placed.Place}, control.Invalid},

		{"a start counter that was there before, by another process", nil,
			register(with(n1, func(n *control.Node) { n.Incarnation = 2 })), control.RestoredImage},
		{"an older start counter", []control.Command{register(with(n1, func(n *control.Node) { n.StartCounter, n.Incarnation = 5, 5 }))},
			register(with(n1, func(n *control.Node) { n.StartCounter, n.Incarnation = 4, 4 })), control.RestoredImage},
		{"a directory that knows of no registration", []control.Command{registerAfter(control.Start{}, at(2, 2))},
			registerAfter(control.Start{}, at(3, 3)), control.RestoredImage},
		{"an older program on a directory that was registered", []control.Command{registerAfter(control.Start{}, at(2, 2))},
			register(at(3, 3)), control.RestoredImage},
		{"a directory that knows of an earlier registration", []control.Command{
			registerAfter(control.Start{}, at(2, 2)), registerAfter(control.Start{Number: 2, Incarnation: 2}, at(3, 3))},
			registerAfter(control.Start{Number: 2, Incarnation: 2}, at(3, 4)), control.RestoredImage},
		{"a directory that knows of another registration of that number", []control.Command{registerAfter(control.Start{}, at(2, 2))},
			registerAfter(control.Start{Number: 2, Incarnation: 9}, at(3, 3)), control.RestoredImage},
		{"a start counter that leaps", []control.Command{registerAfter(control.Start{}, at(2, 2))},
			registerAfter(control.Start{Number: 2, Incarnation: 2}, at(4, 3)), control.Invalid},
		{"a start counter that leaps to the end", nil, registerAfter(control.Start{}, at(1<<63, 3)), control.Invalid},
		{"a stranger's start counter at the end", nil, register(with(node("n4-dddd"), func(n *control.Node) { n.StartCounter = 1 << 63 })), control.Invalid},
		{"a directory whose registration the cluster has lost", nil,
			registerAfter(control.Start{Number: 2, Incarnation: 2}, with(node("n4-dddd"), func(n *control.Node) { n.StartCounter = 3 })), control.UnknownNode},
		{"a name that another living node has", nil,
			register(with(node("n1-dddd"), func(n *control.Node) { n.Peer = "elsewhere:7821" })), control.NameTaken},
		{"a name that a draining node has", []control.Command{set("n1-aaaa", control.Draining)},
			register(with(node("n1-dddd"), func(n *control.Node) { n.Peer = "elsewhere:7821" })), control.NameTaken},
		{"an old id back under a name that went to another", []control.Command{register(node("n1-dddd"))},
			register(with(n1, func(n *control.Node) { n.StartCounter, n.Peer = 2, "elsewhere:7821" })), control.NameTaken},
		{"another cluster's data directory", nil,
			control.Command{RegisterNode: &control.RegisterNode{ClusterID: "c-2", Node: node("n4-dddd")}}, control.ForeignCluster},
		{"a node that left", []control.Command{set("n1-aaaa", control.Draining), set("n1-aaaa", control.Left)},
			register(with(n1, func(n *control.Node) { n.StartCounter = 2 })), control.NodeLeft},
		{"an id that is not made of the name", nil, register(with(node("n4-dddd"), func(n *control.Node) { n.Name = "n5" })), control.Invalid},
		{"no peer address", nil, register(with(node("n4-dddd"), func(n *control.Node) { n.Peer = "" })), control.Invalid},
		{"no start counter", nil, register(with(node("n4-dddd"), func(n *control.Node) { n.StartCounter = 0 })), control.Invalid},
		{"text that is not UTF-8", nil, register(with(node("n4-dddd"), func(n *control.Node) { n.Zone = "\xff" })), control.Invalid},

		{"the state of a stranger", nil, set("n9-zzzz", control.Dead), control.UnknownNode},
		{"an unknown state", nil, set("n1-aaaa", "resting"), control.BadStateChange},
		{"leaving without draining", nil, set("n1-aaaa", control.Left), control.BadStateChange},
		{"news of an earlier start", nil, control.Command{SetNodeState: &control.SetNodeState{Node: "n1-aaaa", State: control.Dead, Incarnation: 7}}, control.Outdated},
		{"life for a node whose name went to another", []control.Command{register(node("n1-dddd"))}, set("n1-aaaa", control.Alive), control.NameTaken},
		{"leaving with replicas", []control.Command{placed, set("n1-aaaa", control.Draining)}, set("n1-aaaa", control.Left), control.NodeInUse},

		{"the removal of a stranger", nil, removeNode("n9-zzzz"), control.UnknownNode},
		{"the removal of a living node", nil, removeNode("n1-aaaa"), control.NodeAlive},
		{"the removal of a node that has started again", []control.Command{set("n1-aaaa", control.Dead)},
			control.Command{RemoveNode: &control.RemoveNode{Node: "n1-aaaa", Incarnation: 7}}, control.Outdated},
		{"a removal that leaves one of two voters", []control.Command{placed, set("n1-aaaa", control.Dead)}, removeNode("n1-aaaa"), control.QuorumNeeded},
		{"a second removal that leaves one of three", []control.Command{
			place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb", "n3-cccc"}, partition.ReplicaSet{"n3-cccc"}),
			set("n1-aaaa", control.Dead), removeNode("n1-aaaa"), set("n2-bbbb", control.Dead)}, removeNode("n2-bbbb"), control.QuorumNeeded},
		{"a removed node's return", []control.Command{set("n1-aaaa", control.Dead), removeNode("n1-aaaa")},
			register(with(n1, func(n *control.Node) { n.StartCounter = 2 })), control.NodeLeft},
		{"life for a removed node", []control.Command{set("n1-aaaa", control.Dead), removeNode("n1-aaaa")}, set("n1-aaaa", control.Alive), control.BadStateChange},
		{"a replica on a removed node", []control.Command{placed, add(1, "n1-aaaa", 2), promote(1, "n1-aaaa", 2), remove(1, "n3-cccc", 1),
			set("n3-cccc", control.Draining), removeNode("n3-cccc")},
			add(0, "n3-cccc", 2), control.NodeUnavailable},

		{"a second placement", []control.Command{placed}, placed, control.AlreadyPlaced},
		{"too few partitions", nil, place(partition.ReplicaSet{"n1-aaaa"}), control.Invalid},
		{"an empty replica set", nil, place(partition.ReplicaSet{"n1-aaaa"}, nil), control.Invalid},
		{"one node twice", nil, place(partition.ReplicaSet{"n1-aaaa", "n1-aaaa"}, partition.ReplicaSet{"n2-bbbb"}), control.Invalid},
		{"a placement on a stranger", nil, place(partition.ReplicaSet{"n9-zzzz"}, partition.ReplicaSet{"n2-bbbb"}), control.UnknownNode},
		{"a placement on a draining node", []control.Command{set("n1-aaaa", control.Draining)}, placed, control.NodeUnavailable},

		{"a replica before the placement", nil, add(0, "n3-cccc", 2), control.NotPlaced},
		{"a generation given out already", []control.Command{placed, add(0, "n3-cccc", 2), remove(0, "n3-cccc", 2)}, add(0, "n3-cccc", 2), control.GenerationUsed},
		{"a generation too far", []control.Command{placed}, add(0, "n3-cccc", 3), control.GenerationUsed},
		{"a second replica on one node", []control.Command{placed}, add(0, "n1-aaaa", 2), control.ReplicaExists},
		{"a replica of no partition", []control.Command{placed}, add(2, "n1-aaaa", 2), control.Invalid},
		{"a replica on a stranger", []control.Command{placed}, add(0, "n9-zzzz", 2), control.UnknownNode},
		{"a vote for another generation", []control.Command{placed, add(0, "n3-cccc", 2)}, promote(0, "n3-cccc", 1), control.UnknownReplica},
		{"the removal of another generation", []control.Command{placed}, remove(0, "n1-aaaa", 2), control.UnknownReplica},
		{"the removal of the last voter", []control.Command{placed, add(1, "n1-aaaa", 2)}, remove(1, "n3-cccc", 1), control.LastVoter},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := young(t, c.before...)
			next, result := control.Apply(s, c.command)
			var rejection *control.Rejection
			if !errors.As(result.Err(), &rejection) || rejection.Reason != c.reason {
				t.Fatalf("%s: %+v, want %s", c.command, result, c.reason)
			}
			if next != s || result.Changed {
				t.Fatal("a refused command changed the state")
			}
		})
	}
}

func TestNothingBeforeTheFounding(t *testing.T) {
	for _, c := range []control.Command{register(node("n1-aaaa")), set("n1-aaaa", control.Dead), place(partition.ReplicaSet{"n1-aaaa"}), add(0, "n1-aaaa", 1)} {
		if _, result := control.Apply(&control.State{}, c); result.Rejection == nil || result.Rejection.Reason != control.NotFounded {
			t.Errorf("%s: %+v", c, result)
		}
	}
	for _, c := range []control.Command{found(3, 3, 3), found(2048, 3, 3), found(2, 0, 3), found(2, 8, 3), found(2, 3, -1),
		{Found: &control.Found{Settings: control.Settings{Partitions: 2, ReplicationFactor: 3}}}} {
		if _, result := control.Apply(&control.State{}, c); result.Rejection == nil || result.Rejection.Reason != control.Invalid {
			t.Errorf("%s: %+v", c, result)
		}
	}
}

func TestARegistrationSentTwiceIsAcceptedOnce(t *testing.T) {
	s := young(t)
	next, result := control.Apply(s, register(node("n1-aaaa")))
	if result.Err() != nil || result.Changed || next != s {
		t.Fatalf("%+v", result)
	}
}

func TestARestartedNodeIsAliveAtItsNewAddress(t *testing.T) {
	s := young(t, set("n1-aaaa", control.Dead), register(with(node("n1-aaaa"), func(n *control.Node) {
		n.StartCounter, n.Incarnation, n.Peer = 2, 77, "moved:7821"
	})))
	if n, _ := s.Node("n1-aaaa"); n.State != control.Alive || n.Peer != "moved:7821" || n.Incarnation != 77 {
		t.Fatalf("%+v", n)
	}
	s = young(t, set("n1-aaaa", control.Draining), register(with(node("n1-aaaa"), func(n *control.Node) { n.StartCounter = 2 })))
	if n, _ := s.Node("n1-aaaa"); n.State != control.Draining {
		t.Fatalf("a restart ended the draining: %+v", n)
	}
}

// The same registration once more is accepted and changes nothing: its sender may
// not have heard the answer. The next one names it.
func TestRegistrationsFollowEachOther(t *testing.T) {
	s := young(t)
	var known control.Start
	for start := uint64(2); start < 5; start++ {
		c := registerAfter(known, at(start, 10+start))
		next, result := control.Apply(s, c)
		if !result.Changed || result.Rejection != nil {
			t.Fatalf("%s: %+v", c, result)
		}
		if again, result := control.Apply(next, c); again != next || result.Rejection != nil {
			t.Fatalf("%s, once more: %+v", c, result)
		}
		n, _ := next.Node("n1-aaaa")
		if s, known = next, n.Start(); !n.Recorded || known != (control.Start{Number: start, Incarnation: 10 + start}) {
			t.Fatalf("%+v", n)
		}
	}
}

func TestAnEmptiedDiskComesBackAsANewNode(t *testing.T) {
	for name, before := range map[string][]control.Command{
		"at the same address":                nil,
		"elsewhere, after the old was found": {set("n1-aaaa", control.Dead)},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("n1-dddd")
			if before != nil {
				n.Peer = "elsewhere:7821"
			}
			s := young(t, append(before, register(n))...)
			if old, _ := s.Node("n1-aaaa"); old.State != control.Dead {
				t.Errorf("the old node is %s", old.State)
			}
			if holder, ok := s.Holder("n1"); !ok || holder.ID != "n1-dddd" {
				t.Errorf("the name means %+v", holder)
			}
		})
	}
}

func TestAReplicaMoves(t *testing.T) {
	s := young(t,
		place(partition.ReplicaSet{"n1-aaaa", "n2-bbbb"}, partition.ReplicaSet{"n3-cccc"}),
		add(0, "n3-cccc", 2), promote(0, "n3-cccc", 2), promote(0, "n3-cccc", 2), remove(0, "n1-aaaa", 1), add(0, "n1-aaaa", 3))
	want := control.Partition{NextGeneration: 4, Replicas: []control.Replica{{"n2-bbbb", 1, true}, {"n3-cccc", 2, true}, {"n1-aaaa", 3, false}}}
	if got := s.Partitions[0]; !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if got, want := s.Voters(), (partition.Assignment{{"n2-bbbb", "n3-cccc"}, {"n3-cccc"}}); !reflect.DeepEqual(got, want) {
		t.Fatalf("voters %v, want %v", got, want)
	}
	if _, ok := s.Replica(5, "n1-aaaa"); ok {
		t.Fatal("a replica of no partition")
	}
}

// drawCommand is any command, often one that fits the state.
func drawCommand(t *rapid.T, s *control.State) control.Command {
	ids := []partition.NodeID{"n1-aaaa", "n1-bbbb", "n2-cccc", "n3-dddd", "n3-eeee"}
	id := rapid.SampledFrom(ids).Draw(t, "node")
	p := partition.ID(rapid.IntRange(0, 2).Draw(t, "partition"))
	generation := rapid.Uint32Range(0, 6).Draw(t, "generation")
	if int(p) < len(s.Partitions) && rapid.IntRange(0, 3).Draw(t, "fits") > 0 {
		generation = s.Partitions[p].NextGeneration
		if r, ok := s.Replica(p, id); ok {
			generation = r.Generation
		}
	}
	switch rapid.IntRange(0, 10).Draw(t, "command") {
	case 0:
		return found(2, 2, 0)
	case 1, 2, 3:
		n := node(id)
		n.StartCounter = rapid.Uint64Range(0, 9).Draw(t, "start")
		n.Incarnation = rapid.Uint64Range(1, 3).Draw(t, "incarnation")
		n.Peer = rapid.SampledFrom([]string{"x:1", "y:1"}).Draw(t, "peer")
		switch known, _ := s.Node(id); rapid.IntRange(0, 3).Draw(t, "previous") {
		case 0:
			return register(n)
		case 1:
			return registerAfter(control.Start{}, n)
		default:
			n.StartCounter = known.StartCounter + 1
			return registerAfter(known.Start(), n)
		}
	case 4:
		states := []control.NodeState{control.Alive, control.Dead, control.Draining, control.Left}
		return set(id, rapid.SampledFrom(states).Draw(t, "state"))
	case 5:
		sets := make([]partition.ReplicaSet, 2)
		for p := range sets {
			sets[p] = rapid.SliceOfN(rapid.SampledFrom(ids), 1, 2).Draw(t, "set")
		}
		return place(sets...)
	case 6, 7:
		return add(p, id, generation)
	case 8:
		return promote(p, id, generation)
	case 9:
		return removeNode(id)
	}
	return remove(p, id, generation)
}

// Any commands in any order: no invariant breaks, start counters and
// generations never go back, what was handed out never changes, two replicas
// agree, and a snapshot is the state.
func TestApplyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := control.Apply(&control.State{}, found(2, 2, 0))
		if rapid.Bool().Draw(t, "placed") {
			s, _ = control.Apply(s, register(node("n1-aaaa")))
			s, _ = control.Apply(s, register(node("n2-cccc")))
			s, _ = control.Apply(s, place(partition.ReplicaSet{"n1-aaaa", "n2-cccc"}, partition.ReplicaSet{"n2-cccc"}))
		}
		twin := s
		given := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			c := drawCommand(t, s)
			before, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			next, result := control.Apply(s, c)
			if again, _ := json.Marshal(s); string(again) != string(before) {
				t.Fatalf("%s changed the state it was applied to", c)
			}
			if result.Changed != (next != s) || result.Changed && (next.Epoch != s.Epoch+1 || result.Rejection != nil) {
				t.Fatalf("%s: %+v, epoch %d after %d", c, result, next.Epoch, s.Epoch)
			}
			if err := next.Check(); err != nil {
				t.Fatalf("after %s: %v", c, err)
			}
			for _, n := range s.Nodes {
				now, ok := next.Node(n.ID)
				if was := n.State == control.Left; ok && !was && (now.State == control.Left) != (now.RemovedEpoch == next.Epoch && result.Changed) {
					t.Fatalf("after %s, epoch %d: node %+v became %+v", c, next.Epoch, n, now)
				}
				if !ok || now.StartCounter < n.StartCounter || n.Recorded && !now.Recorded || n.State == control.Left && now != n {
					t.Fatalf("after %s: node %+v became %+v", c, n, now)
				}
			}
			if c.AddReplica != nil && result.Changed {
				key := fmt.Sprint(c.AddReplica.Partition, c.AddReplica.Generation)
				if given[key] || c.AddReplica.Generation == control.FirstGeneration {
					t.Fatalf("%s: the generation was given out before", c)
				}
				given[key] = true
			}
			if data, err := control.EncodeCommand(c); err != nil {
				t.Fatal(err)
			} else if c, err = control.DecodeCommand(data); err != nil {
				t.Fatal(err)
			}
			twin, _ = control.Apply(twin, c)
			data, err := control.EncodeSnapshot(next)
			if err != nil {
				t.Fatal(err)
			}
			restored, err := control.DecodeSnapshot(data)
			if err != nil || !reflect.DeepEqual(restored, next) || !reflect.DeepEqual(twin, next) {
				t.Fatalf("after %s: %v\n%+v\n%+v\n%+v", c, err, next, restored, twin)
			}
			s = next
		}
	})
}

package reports

import (
	"reflect"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

// Reports that are lost, doubled and out of order, from a sender that restarts, to
// a receiver that restarts: the receiver never goes back within a start, and
// once a report gets through whole, it knows what the sender knows.
func TestReportsGetThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var to table
		var own ownReport
		start, acked, epoch := uint64(1), uint64(0), uint64(1)
		entries := make([]Entry, 4)
		for p := range entries {
			entries[p].Partition = partition.ID(p)
		}
		own.set(epoch, slices.Clone(entries))
		var wire []Report
		seen := map[partition.ID]uint64{}
		deliver := func(r Report) bool {
			taken, _ := to.hear("a", r)
			if known := to.members["a"]; known != nil {
				for p, e := range known.entries {
					if e.Heard < seen[p] {
						t.Fatalf("partition %d went back from %d to %d", p, seen[p], e.Heard)
					}
					seen[p] = e.Heard
				}
			}
			return taken
		}
		send := func(r Report) {
			if deliver(r) {
				acked = r.Sequence
			} else {
				acked = 0
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "action") {
			case 0, 1:
				p := rapid.IntRange(0, len(entries)-1).Draw(t, "partition")
				entries[p].Heard++
				own.set(epoch, slices.Clone(entries))
			case 2: // on its way, the sender gives up waiting
				wire = append(wire, own.since(start, acked))
			case 3:
				if len(wire) > 0 {
					deliver(wire[rapid.IntRange(0, len(wire)-1).Draw(t, "which")])
				}
			case 4:
				send(own.since(start, acked))
			case 5: // the sender restarts
				start++
				own, acked = ownReport{}, 0
				own.set(epoch, slices.Clone(entries))
			case 6: // the receiver restarts
				to = table{}
				clear(seen)
				if rapid.Bool().Draw(t, "heard of it") {
					acked = 0
				}
			case 7: // the ring changes, and nothing else
				epoch++
				own.set(epoch, slices.Clone(entries))
			}
		}
		for range 2 {
			send(own.since(start, acked))
		}
		for p, e := range entries {
			if got := to.members["a"].entries[partition.ID(p)]; got != e {
				t.Fatalf("partition %d: %+v got through as %+v", p, e, got)
			}
		}
		if r := own.since(start, acked); len(r.Entries) > 0 || r.Sequence != acked {
			t.Fatalf("still to be told: %+v", r)
		}
		if got := to.members["a"].epoch; got != epoch {
			t.Fatalf("epoch %d got through as %d", epoch, got)
		}
	})
}

func TestAppliedEverywhere(t *testing.T) {
	ring := ringOf("a", "b", "c", "d")
	ring.Partitions = []control.Partition{{Replicas: []control.Replica{
		{Node: "a", Generation: 1, Voter: true}, {Node: "b", Generation: 2, Voter: true}, {Node: "c", Generation: 3}}}}
	var to table
	tells := func(node partition.NodeID, sequence uint64, e ...Entry) {
		to.hear(node, Report{Start: 1, Sequence: sequence, Entries: e})
	}
	want := func(index uint64, what string) {
		t.Helper()
		if got := to.appliedEverywhere(ring, 0); got != index {
			t.Errorf("%s: %d, want %d", what, got, index)
		}
	}
	tells("a", 1, Entry{Generation: 1, Durable: 30, Heard: 90})
	tells("b", 1, Entry{Generation: 2, Durable: 20, Heard: 20})
	tells("d", 1, Entry{Heard: 50})
	want(0, "c has told nothing")
	tells("c", 1, Entry{Generation: 2, Durable: 40, Heard: 40})
	want(0, "c has told of an earlier replica")
	tells("c", 2, Entry{Generation: 3, Durable: 10, Heard: 9})
	want(9, "c's replica has applied more than c has heard of for good")
	tells("c", 3, Entry{Generation: 3, Durable: 10, Heard: 10})
	want(10, "all have told")
	ring.Nodes = append(ring.Nodes, control.Node{ID: "e"})
	want(0, "e, who has no replica, has told nothing")
	tells("e", 1, Entry{Heard: 7})
	want(7, "e has heard of no more")
	tells("e", 2, Entry{Heard: 60})
	tells("c", 4)
	want(0, "c has a replica no more")
	ring.Nodes[2].State, ring.Nodes[2].RemovedEpoch = control.Left, 1
	want(20, "c was removed")
	to.keep(ring.Members()[:1])
	want(0, "b was forgotten")
	if got := to.appliedEverywhere(ring, 1); got != 0 {
		t.Errorf("no such partition, and %d", got)
	}
	if want := []partition.NodeID{"a"}; len(to.members) != 1 || !reflect.DeepEqual(ring.Members()[:1], want) {
		t.Errorf("kept %v", to.members)
	}
}

// A member knows that it has heard of all that session tokens leave out once
// every other member of its ring has told it something, and knows of all removals.
func TestHeardFromAll(t *testing.T) {
	ring := ringOf("a", "b", "c")
	for _, test := range []struct {
		what  string
		self  partition.NodeID
		left  uint64            // epoch at which c was removed; 0: it was not
		epoch map[string]uint64 // that the others knew of when they last told something
		all   bool
	}{
		{"nobody has told", "a", 0, nil, false},
		{"one has not", "a", 0, map[string]uint64{"b": 5}, false},
		{"both have", "a", 0, map[string]uint64{"b": 5, "c": 1}, true},
		{"it is no member", "d", 0, map[string]uint64{"a": 5, "b": 5, "c": 5}, false},
		{"one was removed, and the other does not know", "a", 7, map[string]uint64{"b": 6, "c": 9}, false},
		{"one was removed, and the other knows", "a", 7, map[string]uint64{"b": 7}, true},
	} {
		now := *ring
		now.Nodes = slices.Clone(ring.Nodes)
		if test.left > 0 {
			now.Nodes[2].State, now.Nodes[2].RemovedEpoch = control.Left, test.left
		}
		var to table
		for node, epoch := range test.epoch {
			to.hear(partition.NodeID(node), Report{Start: 1, Sequence: 1, Epoch: epoch})
		}
		if all := to.heardFromAll(&now, test.self); all != test.all {
			t.Errorf("%s: %v", test.what, all)
		}
	}
}

package workload

import (
	"slices"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/history"
)

func TestSessionsHop(t *testing.T) {
	ops, final := play(session, config, 400)
	type seen struct {
		nodes, levels, keys map[string]bool
		slots               map[int]bool
		writes              int
	}
	of := map[string]*seen{}
	users := map[string]map[string]bool{} // key: sessions
	for i, o := range ops {
		s := of[o.Session]
		if s == nil {
			s = &seen{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[int]bool{}, 0}
			of[o.Session] = s
		}
		s.nodes[o.Node], s.levels[string(o.Level)], s.keys[o.Key], s.slots[i%config.Processes] = true, true, true, true
		if users[o.Key] == nil {
			users[o.Key] = map[string]bool{}
		}
		users[o.Key][o.Session] = true
		if o.Write() {
			s.writes++
		}
	}
	if len(of) < 400*config.Processes/opsPerSession {
		t.Errorf("%d sessions", len(of))
	}
	for name, s := range of {
		if name == "" || len(s.nodes) != len(config.Nodes) || len(s.levels) != 3 || len(s.keys) > 4 || len(s.slots) != 1 || s.writes == 0 {
			t.Errorf("session %q: %+v", name, *s)
		}
	}
	operations := map[string]int{}
	for _, o := range ops {
		operations[o.Key]++
	}
	for key, sessions := range users {
		if len(sessions) < 2 && operations[key] > opsPerSession {
			t.Errorf("%s is used by one session", key)
		}
		if operations[key] > 300 {
			t.Errorf("%s has %d operations", key, operations[key])
		}
	}
	if len(users) < 8 {
		t.Errorf("%d keys", len(users))
	}
	for _, o := range final {
		if of[o.Session] == nil {
			t.Errorf("the session of %v has done nothing before", o)
		}
	}
}

// While a node does not show the last write it is asked again, a few times; those
// that do are not.
func TestPollsGoOnWhereTheWriteDoesNotShow(t *testing.T) {
	g := staleness.New(config)
	asked := map[string]int{}
	for i := range 4 + (pollRounds - 1) { // the write, all three, then n2 again and again
		o, _ := g.Next(0)
		if (i == 0) != (o.Func == history.Put) {
			t.Fatalf("operation %d: %v", i, o)
		}
		if o.Func == history.Get {
			asked[o.Node]++
			if o.Found = o.Node != "n2"; o.Found {
				o.Value = "v0-0"
			}
		}
		o.Outcome = history.OK
		g.Done(0, o)
	}
	if asked["n1"] != 1 || asked["n2"] != pollRounds || asked["n3"] != 1 {
		t.Errorf("asked %v", asked)
	}
	if o, _ := g.Next(0); o.Func != history.Put || o.Value != "v0-1" {
		t.Errorf("then %v", o)
	}
	// Another slot has another key: a key has one writer.
	if a, _ := g.Next(1); a.Func != history.Put || a.Key == "staleness/0" {
		t.Errorf("slot 1: %v", a)
	}
}

func TestWhatIsDeletedIsReadForLong(t *testing.T) {
	ops, final := play(deletion, config, 600)
	deleted, after := map[string]bool{}, map[string]int{}
	still := 0
	for _, o := range ops {
		switch {
		case o.Func == history.Delete && o.Level == history.Linearizable:
			deleted[o.Key] = true
		case deleted[o.Key] && o.Func == history.Get:
			after[o.Key]++
		case deleted[o.Key] && o.Func == history.Put:
			after[o.Key] -= 10_000
		}
	}
	for _, n := range after {
		if n >= 10 {
			still++
		}
	}
	if len(deleted) < 10 || still < len(deleted)/3 {
		t.Errorf("%d of %d deleted keys are only read from then on", still, len(deleted))
	}
	for key := range deleted {
		for _, node := range config.Nodes {
			if !slices.ContainsFunc(final, func(o history.Op) bool { return o.Key == key && o.Node == node && o.Level == history.Eventual }) {
				t.Errorf("%s is not read at %s in the end", key, node)
			}
		}
	}
}

// A delete that is not acknowledged is tried again.
func TestAKeyIsDeletedUntilThatIsAcknowledged(t *testing.T) {
	c := config
	c.Processes, c.OpsPerKey = 1, 30
	g := deletion.New(c)
	tries := 0
	for range 300 {
		o, _ := g.Next(0)
		if o.Key != "delete/0" {
			t.Fatalf("it went on to %v", o)
		}
		if o.Outcome = history.OK; o.Func == history.Delete && o.Level == history.Linearizable {
			tries++
			o.Outcome = history.Info
		}
		g.Done(0, o)
	}
	if tries < 10 {
		t.Errorf("%d tries", tries)
	}
}

// What decides where a tag lives is what stands between its braces.
func TestTagsAreInAllPartitions(t *testing.T) {
	c := config
	c.Partitions, c.OpsPerKey = 4, 20
	c.PartitionOf = func(key string) int {
		_, tag, _ := strings.Cut(key, "{")
		tag, _, _ = strings.Cut(tag, "}")
		sum := 0
		for _, b := range tag {
			sum += int(b)
		}
		return sum % 4
	}
	ops, _ := play(scan, c, 200)
	in := map[int]int{}
	for _, o := range ops {
		in[c.PartitionOf(o.Key)]++
		if tag, _, _ := strings.Cut(o.Key, "}"); len(tag) > len("scan/{999") {
			t.Fatalf("none of the names before %s was found good", tag)
		}
	}
	for p := range 4 {
		if in[p] < len(ops)/8 {
			t.Errorf("partition %d has %d of %d operations", p, in[p], len(ops))
		}
	}
}

func TestScansAndWritesMeetInOneTag(t *testing.T) {
	ops, _ := play(scan, config, 300)
	scans, writes := map[string]int{}, map[string]map[string]bool{}
	for _, o := range ops {
		tag, key, ok := strings.Cut(o.Key, "}/")
		if !ok || (o.Func == history.Scan) != (key == "") || !strings.Contains(tag, "{") {
			t.Fatalf("%v", o)
		}
		if o.Func == history.Scan {
			scans[tag]++
		} else if o.Write() {
			if writes[tag] == nil {
				writes[tag] = map[string]bool{}
			}
			writes[tag][key] = true
		}
	}
	for tag, n := range scans {
		if n < 20 || len(writes[tag]) != keysPerTag {
			t.Errorf("%s: %d scans, keys %v", tag, n, writes[tag])
		}
	}
}

// cluster of eight partitions, of which some serve nothing linearizable at n2.
func TestEveryNodeIsAskedForEveryPartition(t *testing.T) {
	g := availability.New(config)
	type probe struct {
		node      string
		level     history.Level
		partition int
	}
	down := map[int]bool{3: true, 4: true}
	asked := map[probe]int{}
	for range 400 {
		for slot := range config.Processes {
			o, ok := g.Next(slot)
			if !ok || o.Node != config.Nodes[slot%len(config.Nodes)] || o.Deadline <= 0 {
				t.Fatalf("slot %d: %v", slot, o)
			}
			o.Partition = int(o.Key[len("availability/{")]+o.Key[len("availability/{")+1]) % 8
			asked[probe{o.Node, o.Level, o.Partition}]++
			o.Outcome = history.OK
			if o.Node == "n2" && o.Level == history.Linearizable && down[o.Partition] {
				o.Outcome = history.Fail
			}
			g.Done(slot, o)
		}
	}
	for _, node := range config.Nodes {
		for partition := range 8 {
			for _, level := range []history.Level{history.Linearizable, history.Eventual} {
				n := asked[probe{node, level, partition}]
				if n < 20 {
					t.Errorf("%s was asked %d times for partition %d, %s", node, n, partition, level)
				}
				if node == "n2" && level == history.Linearizable && down[partition] && n < 80 {
					t.Errorf("what is not served at %s is asked for %d times", node, n)
				}
			}
		}
	}
	// With fewer slots than nodes and levels, each asks both.
	few := config
	few.Processes = 3
	ops, _ := play(availability, few, 40)
	levels := map[history.Level]int{}
	for _, o := range ops {
		levels[o.Level]++
	}
	if levels[history.Eventual] != levels[history.Linearizable] {
		t.Errorf("%v", levels)
	}
}

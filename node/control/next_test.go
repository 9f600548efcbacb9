package control_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

// world is a cluster as the driver sees and changes it.
type world struct {
	t       rapid.TB
	state   *control.State
	alive   map[partition.NodeID]bool
	servers []control.Server
	leaders []partition.NodeID
}

// newWorld is founded by the first node, which has registered nobody yet, not
// even itself.
func newWorld(t rapid.TB, founder partition.NodeID, partitions, replicationFactor, expect int) *world {
	s, result := control.Apply(&control.State{}, found(partitions, replicationFactor, expect))
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	return &world{t: t, state: s, alive: map[partition.NodeID]bool{founder: true}, servers: []control.Server{{Node: founder, Voter: true}}}
}

func (w *world) apply(c control.Command) control.Result {
	var result control.Result
	w.state, result = control.Apply(w.state, c)
	if err := w.state.Check(); err != nil {
		w.t.Fatalf("after %s: %v", c, err)
	}
	return result
}

func (w *world) arrive(n control.Node) {
	if result := w.apply(register(n)); result.Err() != nil {
		w.t.Fatal(result.Err())
	}
	w.alive[n.ID] = true
}

func (w *world) next() []control.Step {
	steps := control.Next(control.Observed{State: w.state, Alive: w.alive, Servers: w.servers, Leaders: w.leaders})
	changes, moved := 0, 0
	for _, step := range steps {
		switch step := step.(type) {
		case control.AddControlNonvoter, control.AddControlVoter:
			changes++
		case control.RemoveControlServer:
			changes++
			n, _ := w.state.Node(step.Node)
			if holder, _ := w.state.Holder(n.Name); n.State != control.Left && holder.ID == n.ID {
				w.t.Fatalf("%s: it is %s", step, n.State)
			}
		case control.TransferLeader:
			moved++
		}
	}
	if changes > 1 || moved > control.MaxTransfersPerRound {
		w.t.Fatalf("too much at once: %v", steps)
	}
	return steps
}

func (w *world) voters() (n int) {
	for _, s := range w.servers {
		if s.Voter {
			n++
		}
	}
	return n
}

// do carries a step out and holds it to the driver's rules.
func (w *world) do(step control.Step) {
	at := func(id partition.NodeID) int {
		return slices.IndexFunc(w.servers, func(s control.Server) bool { return s.Node == id })
	}
	switch step := step.(type) {
	case control.Propose:
		if p := step.Command.Place; p != nil {
			for _, set := range p.Assignment {
				for _, n := range set {
					if !w.alive[n] {
						w.t.Fatalf("placed on %s, which is not there", n)
					}
				}
			}
		}
		if result := w.apply(step.Command); result.Err() != nil {
			w.t.Fatalf("%s: %v", step, result.Err())
		}
	case control.AddControlNonvoter:
		if at(step.Node) >= 0 || !w.alive[step.Node] {
			w.t.Fatalf("%s: it is there already, or not alive", step)
		}
		w.servers = append(w.servers, control.Server{Node: step.Node, Lagging: true})
	case control.AddControlVoter:
		i := at(step.Node)
		if slices.ContainsFunc(w.servers, func(s control.Server) bool { return s.Voter && s.Lagging }) {
			w.t.Fatalf("%s while a voter lags, of %+v", step, w.servers)
		}
		if i < 0 || w.servers[i].Voter || w.servers[i].Lagging || !w.alive[step.Node] || w.voters() >= control.MaxControlVoters {
			w.t.Fatalf("%s, of %+v", step, w.servers)
		}
		w.servers[i].Voter = true
	case control.RemoveControlServer:
		i := at(step.Node)
		w.servers = slices.Delete(w.servers, i, i+1)
		if w.voters() == 0 {
			w.t.Fatalf("%s: nobody votes any more", step)
		}
	case control.TransferLeader:
		r, ok := w.state.Replica(step.Partition, step.To)
		if !ok || !r.Voter || !w.alive[step.To] || !w.alive[step.From] || w.leaders[step.Partition] != step.From {
			w.t.Fatalf("%s", step)
		}
		w.leaders[step.Partition] = step.To
	default:
		w.t.Fatalf("unknown step %T", step)
	}
}

// catchUp lets every follower of the control group catch up, and every
// partition elect a leader, by the given choice among its living voters.
func (w *world) catchUp(choose func(n int) int) {
	for i := range w.servers {
		w.servers[i].Lagging = !w.alive[w.servers[i].Node]
	}
	w.leaders = append(w.leaders, make([]partition.NodeID, len(w.state.Partitions)-len(w.leaders))...)
	for p, set := range w.state.Voters() {
		living := slices.DeleteFunc(slices.Clone(set), func(n partition.NodeID) bool { return !w.alive[n] })
		if w.alive[w.leaders[p]] {
			continue
		}
		w.leaders[p] = ""
		if len(living) > len(set)/2 {
			w.leaders[p] = living[choose(len(living))]
		}
	}
}

// settle drives until no step is left.
func (w *world) settle(choose func(n int) int) {
	const rounds = 200 // far more than a hundred of nodes and leaders need
	for range rounds {
		w.catchUp(choose)
		steps := w.next()
		if len(steps) == 0 {
			return
		}
		for _, step := range steps {
			w.do(step)
		}
	}
	w.t.Fatalf("no peace after %d rounds; still to do: %v", rounds, w.next())
}

// wanted checks what the driver is to have reached.
func (w *world) wanted(expect int) {
	living, willing := 0, map[partition.NodeID]bool{}
	votersGone := 0
	for _, s := range w.servers {
		if s.Voter && !w.alive[s.Node] {
			votersGone++
		}
	}
	names := map[string]bool{}
	for _, n := range w.state.Nodes {
		holder, _ := w.state.Holder(n.Name)
		if holder.ID != n.ID || names[n.Name] {
			continue // its name is another's
		}
		names[n.Name] = true
		if want := w.alive[n.ID]; (n.State == control.Alive) != want {
			w.t.Fatalf("%s is %s, gossip says alive: %v", n.ID, n.State, want)
		}
		follows := slices.ContainsFunc(w.servers, func(s control.Server) bool { return s.Node == n.ID })
		if n.State == control.Alive {
			living++
			willing[n.ID] = true
			if !follows {
				w.t.Fatalf("%s does not follow the control group: %+v", n.ID, w.servers)
			}
		}
	}
	most := min(control.MaxControlVoters, living+votersGone)
	if v := w.voters(); votersGone == 0 && v < most-1+most%2 || v > control.MaxControlVoters {
		w.t.Fatalf("%d vote, %d live, %d voters are gone", v, living, votersGone)
	}
	if !w.state.Placed() {
		if living >= expect {
			w.t.Fatalf("%d of %d nodes are there and nothing is placed", living, expect)
		}
		return
	}
	if more := partition.PlanLeaders(w.leaders, w.state.Voters(), willing); len(more) > 0 {
		w.t.Fatalf("leaders are uneven: %v", more)
	}
}

func zoned(i int, zone string) control.Node {
	n := node(partition.NodeID(fmt.Sprintf("n%d-aaaa", i)))
	n.Zone = zone
	return n
}

// Every order of arrival of up to five nodes, with the driver running not at
// all, once, or (up to four nodes) to the end after each arrival: always the
// same wanted end.
func TestEveryOrderOfArrival(t *testing.T) {
	first := func(int) int { return 0 }
	var orders func(rest, order []int, visit func([]int))
	orders = func(rest, order []int, visit func([]int)) {
		if len(rest) == 0 {
			visit(order)
		}
		for i := range rest {
			orders(slices.Delete(slices.Clone(rest), i, i+1), append(slices.Clone(order), rest[i]), visit)
		}
	}
	for nodes := 1; nodes <= 5; nodes++ {
		var all []int
		for i := range nodes {
			all = append(all, i+1)
		}
		orders(all, nil, func(order []int) {
			kinds, pauses := 3, 1
			if nodes == 5 {
				kinds = 2
			}
			for range order {
				pauses *= kinds
			}
			for pause := range pauses {
				w := newWorld(t, "n1-aaaa", 8, 3, nodes)
				for _, i := range order {
					if w.state.Placed() {
						t.Fatalf("order %v: placed before all were there", order)
					}
					w.arrive(zoned(i, ""))
					switch pause % kinds {
					case 1:
						w.catchUp(first)
						for _, step := range w.next() {
							w.do(step)
						}
					case 2:
						w.settle(first)
					}
					pause /= kinds
				}
				w.settle(first)
				w.wanted(nodes)
				if len(w.servers) != nodes || w.voters() != []int{0, 1, 1, 3, 3, 5}[nodes] || !w.state.Placed() {
					t.Fatalf("order %v: %+v", order, w.servers)
				}
			}
		})
	}
}

func TestVotersSpreadOverZones(t *testing.T) {
	w := newWorld(t, "n1-aaaa", 4, 3, 6)
	for i, zone := range []string{"a", "a", "a", "b", "b", "c"} {
		w.arrive(zoned(i+1, zone))
	}
	zones := map[string]int{}
	for w.voters() < 3 {
		w.catchUp(func(int) int { return 0 })
		for _, step := range w.next() {
			w.do(step)
		}
	}
	for _, s := range w.servers {
		if n, _ := w.state.Node(s.Node); s.Voter {
			zones[n.Zone]++
		}
	}
	if len(zones) != 3 {
		t.Fatalf("the first three voters are in zones %v", zones)
	}
}

func TestADeadVoterIsNotReplacedOnGossipAlone(t *testing.T) {
	first := func(int) int { return 0 }
	w := newWorld(t, "n1-aaaa", 4, 3, 3)
	for i := range 3 {
		w.arrive(zoned(i+1, ""))
	}
	w.settle(first)
	w.alive["n3-aaaa"] = false
	w.settle(first)
	if n, _ := w.state.Node("n3-aaaa"); n.State != control.Dead || w.voters() != 3 {
		t.Fatalf("%+v, %+v", n, w.servers)
	}
	// It comes back with an emptied disk: its old vote goes, its new one comes.
	n := node("n3-bbbb")
	w.arrive(n)
	w.settle(first)
	w.wanted(3)
	if slices.ContainsFunc(w.servers, func(s control.Server) bool { return s.Node == "n3-aaaa" }) || w.voters() != 3 {
		t.Fatalf("%+v", w.servers)
	}
}

func TestNoVoteForOneThatLags(t *testing.T) {
	w := newWorld(t, "n1-aaaa", 4, 3, 3)
	for i := range 3 {
		w.arrive(zoned(i+1, ""))
	}
	for range 10 { // nobody catches up
		for _, step := range w.next() {
			w.do(step)
		}
	}
	if w.voters() != 1 || len(w.servers) != 3 {
		t.Fatalf("%+v", w.servers)
	}
}

// Nobody gets a vote while a voter is behind, or away: it might be needed for a majority,
// and does not know whom it is asked to vote for.
func TestNoVoteWhileAVoterLags(t *testing.T) {
	first := func(int) int { return 0 }
	w := newWorld(t, "n1-aaaa", 4, 3, 3)
	for i := range 3 {
		w.arrive(zoned(i+1, ""))
	}
	w.settle(first)
	w.alive["n2-aaaa"] = false
	w.arrive(zoned(4, ""))
	w.arrive(zoned(5, ""))
	w.settle(first)
	if w.voters() != 3 || len(w.servers) != 5 {
		t.Fatalf("n2 is away: %+v", w.servers)
	}
	w.alive["n2-aaaa"] = true
	at := slices.IndexFunc(w.servers, func(s control.Server) bool { return s.Node == "n2-aaaa" })
	for range 3 {
		for _, step := range w.next() {
			w.do(step)
		}
		if w.servers[at].Lagging = true; w.voters() != 3 {
			t.Fatalf("n2 lags: %+v", w.servers)
		}
		if o := (control.Observed{State: w.state, Alive: w.alive, Servers: w.servers}); !o.VotePending() {
			t.Fatal("the driver does not look again soon")
		}
	}
	w.settle(first)
	if w.voters() != 5 {
		t.Fatalf("all have caught up: %+v", w.servers)
	}
}

// While a node that is up has to catch up for its vote, the driver looks again
// soon; one that is down, or more than there are votes for, it does not wait for.
func TestVotePending(t *testing.T) {
	w := newWorld(t, "n1-aaaa", 4, 3, 3)
	w.arrive(node("n1-aaaa"))
	w.arrive(node("n2-aaaa"))
	pending := func() bool { return control.Observed{State: w.state, Alive: w.alive, Servers: w.servers}.VotePending() }
	if pending() {
		t.Error("nobody follows yet")
	}
	w.servers = append(w.servers, control.Server{Node: "n2-aaaa", Lagging: true})
	if !pending() {
		t.Error("n2 is to vote once it has caught up")
	}
	w.alive["n2-aaaa"] = false
	if pending() {
		t.Error("n2 is down")
	}
	w.alive["n2-aaaa"] = true
	for i := range control.MaxControlVoters - 1 {
		w.servers = append(w.servers, control.Server{Node: partition.NodeID(fmt.Sprint("v", i)), Voter: true})
	}
	if pending() {
		t.Error("there are enough votes")
	}
	w.servers = []control.Server{{Node: "n1-aaaa", Voter: true}, {Node: "n2-aaaa", Voter: true}}
	if pending() {
		t.Error("both vote")
	}
}

func TestTheLastVoterIsNeverRemoved(t *testing.T) {
	w := newWorld(t, "n1-aaaa", 4, 3, 3)
	w.arrive(node("n1-aaaa"))
	w.arrive(node("n1-bbbb")) // takes the founder's name
	for range 5 {
		for _, step := range w.next() {
			w.do(step)
		}
	}
}

func TestOfTwoDeadNodesOfOneNameOneIsMarkedAlive(t *testing.T) {
	w := newWorld(t, "n1-aaaa", 4, 3, 1)
	w.arrive(node("n1-aaaa"))
	w.arrive(node("n2-aaaa"))
	w.arrive(node("n2-bbbb"))
	w.apply(set("n2-bbbb", control.Dead))
	w.settle(func(int) int { return 0 }) // gossip reaches both
	a, _ := w.state.Node("n2-aaaa")
	b, _ := w.state.Node("n2-bbbb")
	if a.State != control.Alive || b.State != control.Dead {
		t.Fatalf("%s and %s", a.State, b.State)
	}
}

func TestADrainingNodeGivesItsLeadersAway(t *testing.T) {
	first := func(int) int { return 0 }
	w := newWorld(t, "n1-aaaa", 8, 3, 3)
	for i := range 3 {
		w.arrive(zoned(i+1, ""))
	}
	w.settle(first)
	w.apply(set("n2-aaaa", control.Draining))
	w.settle(first)
	if slices.Contains(w.leaders, "n2-aaaa") {
		t.Fatalf("%v", w.leaders)
	}
}

func TestNothingToDoWithoutACluster(t *testing.T) {
	if steps := control.Next(control.Observed{State: &control.State{}, Alive: map[partition.NodeID]bool{"n1-aaaa": true}, BootstrapExpect: 1}); steps != nil {
		t.Fatalf("%v", steps)
	}
}

func TestOwnBootstrapExpectCountsWhereNoneIsRecorded(t *testing.T) {
	s := after(t, found(2, 3, 0), register(node("n1-aaaa")))
	o := control.Observed{State: s, Alive: map[partition.NodeID]bool{"n1-aaaa": true}, Servers: []control.Server{{Node: "n1-aaaa", Voter: true}}}
	if steps := control.Next(o); len(steps) != 0 {
		t.Fatalf("without any: %v", steps)
	}
	o.BootstrapExpect = 1
	if steps := control.Next(o); len(steps) != 1 || steps[0].String() != "place 2 partitions" {
		t.Fatalf("with one: %v", steps)
	}
}

// Nodes arrive, die, return, restart, lose their disks and lag while the
// driver runs, its steps fail and it crashes between them. Then the world
// holds still, and the driver must come to the wanted end and stay there.
func TestTheDriverConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expect := rapid.IntRange(1, 4).Draw(t, "expect")
		w := newWorld(t, "n1-aaaa", 8, 3, expect)
		starts := map[partition.NodeID]uint64{}
		choose := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "leader") }
		ids := []partition.NodeID{"n1-aaaa", "n2-aaaa", "n3-aaaa", "n4-aaaa", "n5-aaaa", "n6-aaaa", "n2-bbbb", "n3-bbbb"}
		start := func(id partition.NodeID) {
			n := node(id)
			starts[id]++
			n.StartCounter, n.Incarnation = starts[id], starts[id]
			n.Zone = []string{"a", "b", "c"}[int(id[1])%3]
			old := "aaaa"
			if id[3:] == "aaaa" {
				old = "bbbb"
			}
			w.alive[id[:3]+partition.NodeID(old)] = false // one address, one process
			w.arrive(n)
		}
		start("n1-aaaa")
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) { start(rapid.SampledFrom(ids).Draw(t, "who")) },
			"gossip": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "who")
				if _, ok := w.state.Node(id); ok && id != "n1-aaaa" {
					w.alive[id] = !w.alive[id]
				}
			},
			"catch up": func(*rapid.T) { w.catchUp(choose) },
			"drive": func(t *rapid.T) {
				for _, step := range w.next() {
					if rapid.IntRange(0, 3).Draw(t, "fails") > 0 {
						w.do(step)
					}
				}
			},
		})
		w.settle(choose)
		w.wanted(expect)
		if steps := w.next(); len(steps) > 0 {
			t.Fatalf("no peace: %v", steps)
		}
	})
}

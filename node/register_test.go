package node

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/node/identity"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// directory is one copy of a node's data directory in the model below.
type directory struct {
	disk  *vfs.MemFS
	knows map[control.Start]bool // what was ever written to it
}

// Directories are copied at any moment, started any number of times, killed
// between any two steps; commands to the control group are delayed, repeated and
// lost, and so are their answers. Whoever begins to serve has a directory that
// knows of the start that served before it: no copy from before ever comes back.
// And the newest one is always taken, once its command arrives.
func TestNoOlderDirectoryIsEverRegistered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ring, result := control.Apply(&control.State{}, control.Command{Found: &control.Found{
			ClusterID: "c", Settings: control.Settings{Partitions: 1, ReplicationFactor: 1},
		}})
		if result.Rejection != nil {
			t.Fatal(result.Rejection)
		}
		dirs := []*directory{{vfs.NewCrashableMem(), map[control.Start]bool{}}}
		var served control.Start
		var sent []control.Command
		incarnation := uint64(0)

		open := func(d *directory) *Node {
			id, err := identity.Open(d.disk, "d", "n1")
			switch {
			case errors.Is(err, ErrRefused):
				return nil
			case err != nil:
				t.Fatal(err)
			}
			incarnation++
			return &Node{id: id.NodeID(), identity: id, incarnation: incarnation, config: Config{Name: "n1"}, addresses: addresses{peer: "h:1"}}
		}
		apply := func(c control.Command) control.Result {
			var result control.Result
			ring, result = control.Apply(ring, c)
			return result
		}
		// run is one start that gets at most that many answers before it is killed.
		run := func(d *directory, answers int, always bool) error {
			n := open(d)
			if n == nil {
				return ErrRefused
			}
			defer n.identity.Close()
			err := n.register("c", func(c control.Command) (control.Result, partition.NodeID, error) {
				d.knows[c.RegisterNode.Node.Start()] = true
				if answers == 0 {
					sent = append(sent, c)
					return control.Result{}, "", errors.New("killed before the answer")
				}
				answers--
				if !always && rapid.Bool().Draw(t, "lost") {
					sent = append(sent, c)
					if rapid.Bool().Draw(t, "applied") {
						apply(c)
					}
					return control.Result{}, "", errors.New("the answer was lost")
				}
				return apply(c), "leader", nil
			})
			if err == nil {
				own := control.Start(n.identity.Registered())
				if served != (control.Start{}) && !d.knows[served] {
					t.Fatalf("start %v serves from a directory that has never heard of start %v, which served before", own, served)
				}
				served = own
			}
			return err
		}
		nodeOf(t, dirs[0]) // which makes the node id, the same in all copies
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			d := rapid.SampledFrom(dirs).Draw(t, "directory")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if len(dirs) < 6 {
					dirs = append(dirs, &directory{d.disk.CrashClone(vfs.CrashCloneCfg{}), maps.Clone(d.knows)})
				}
			case 1:
				if len(sent) > 0 { // late, and perhaps again
					apply(rapid.SampledFrom(sent).Draw(t, "late"))
				}
			default:
				err := run(d, rapid.IntRange(0, 3).Draw(t, "answers"), false)
				if errors.Is(err, ErrRefused) {
					if again := run(d, 9, true); !errors.Is(again, ErrRefused) {
						t.Fatalf("refused once, and let in at the next start: %v", again)
					}
				}
			}
		}
		// One of the copies knows what the cluster has on record, unless the one that
		// did was lost to an older one's refusal; that one is let in.
		known, ok := ring.Node(nodeOf(t, dirs[0]))
		for _, d := range dirs {
			last, refused := lastOf(t, d)
			if !ok || refused || known.Start() != last {
				continue
			}
			if err := run(d, 9, true); err != nil {
				t.Fatalf("the newest directory was refused: %v", err)
			}
			break
		}
	})
}

func nodeOf(t *rapid.T, d *directory) partition.NodeID {
	id, err := identity.Open(d.disk, "d", "n1")
	if errors.Is(err, ErrRefused) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	return id.NodeID()
}

func lastOf(t *rapid.T, d *directory) (last control.Start, refused bool) {
	id, err := identity.Open(d.disk, "d", "n1")
	if errors.Is(err, ErrRefused) {
		return control.Start{}, true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	start, _ := id.Last()
	return control.Start(start), false
}

// A node loses its power at any moment of its starts, the one between the cluster's
// record and its own included. It is never taken for an older copy of itself.
func TestPowerCutsWhileRegistering(t *testing.T) {
	forSeeds(t, 6, func(t *testing.T, seed uint64) {
		w := newWorld(t, 3, seed).formed()
		defer w.close()
		m := w.machines[w.random(3)]
		for range 25 {
			m.crash([]int{0, 50, 100}[w.random(3)])
			m.start()
			time.Sleep(w.randomTime(60 * time.Millisecond))
		}
		w.awaitReady(w.machines...)
		m.mustPut("k", "v")
	})
}

// The founder, too, may be switched off between founding and its own registration.
func TestPowerCutsWhileFounding(t *testing.T) {
	forSeeds(t, 4, func(t *testing.T, seed uint64) {
		w := newWorld(t, 3, seed)
		defer w.close()
		w.startAll()
		for range 12 {
			time.Sleep(w.randomTime(400 * time.Millisecond))
			m := w.machines[w.random(3)]
			m.crash([]int{0, 100}[w.random(2)])
			m.start()
		}
		w.awaitReady(w.machines...)
		w.machines[0].mustPut("k", "v")
	})
}

// Two processes run on copies of one data directory: one of them ends.
func TestTwoProcessesOnCopiesOfOneDirectory(t *testing.T) {
	for name, running := range map[string]bool{"copied while it runs": true, "copied while it is stopped": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *world) {
				n3 := w.machines[2]
				if !running {
					n3.stop()
				}
				twin := w.addMachine()
				twin.name, twin.disk = n3.name, w.image(n3.disk, 100)
				if !running {
					n3.start()
				}
				original := n3.running()
				copied := twin.start()
				select {
				case <-original.Done():
				case <-copied.Done():
				case <-time.After(time.Minute):
					t.Fatal("both run")
				}
				ended, left := original, twin
				if original.Err() == nil {
					ended, left = copied, n3
				}
				ended.awaitRefused()
				ended.machine.stop()
				w.awaitReady(left)
				left.mustPut("k", "v")
				w.machines = append(w.machines[:2], left)
			})
		})
	}
}

// asOlderProgram makes a stopped machine's disk what the program before this one left
// there: it counted starts, and wrote no registrations down.
func (m *machine) asOlderProgram(starts int) {
	m.world.t.Helper()
	fatal := func(err error) {
		m.world.t.Helper()
		if err != nil {
			m.world.t.Fatal(err)
		}
	}
	id, err := identity.Open(m.disk, "data", m.name)
	fatal(err)
	old := fmt.Sprintf(`{"format":1,"node_id":%q,"cluster_id":%q,"cluster_name":"capstan","starts":%d,"created":"2026-11-22T10:00:00Z"}`,
		id.NodeID(), id.ClusterID(), starts)
	fatal(id.Close())
	file, err := m.disk.Create("data/node.json", vfs.WriteCategoryUnspecified)
	fatal(err)
	_, err = io.WriteString(file, old)
	fatal(errors.Join(err, file.Sync(), file.Close()))

	state, err := storage.OpenState(storage.StateOptions{FS: m.disk, Dir: "data/state"})
	fatal(err)
	machine, err := openControlMachine(state.Blob(controlReplica), state.Sync)
	fatal(err)
	ring := *machine.current()
	ring.Nodes = slices.Clone(ring.Nodes)
	for i := range ring.Nodes {
		ring.Nodes[i].Recorded = false
	}
	fatal(machine.store(&ring, machine.index, machine.term))
	fatal(state.Close())
	fatal(m.disk.Remove("data/marks")) // that program kept none
	dir, err := m.disk.OpenDir("data")
	fatal(err)
	fatal(errors.Join(dir.Sync(), dir.Close()))
}

// Directories of the program before this one are taken as they are, once: from then
// on a copy from before is refused.
func TestDirectoriesOfTheProgramBefore(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.machines[0].mustPut("k", "v")
		w.stopAll()
		for _, m := range w.machines {
			m.asOlderProgram(7)
		}
		before := w.image(w.machines[1].disk, 0)
		w.startAll()
		w.awaitReady(w.machines...)
		w.machines[1].mustGet("k", "v")
		known, _ := w.machines[0].running().ring().Node(w.machines[1].running().id)
		if !known.Recorded || known.StartCounter != 8 {
			t.Errorf("registered as %+v", known)
		}
		w.machines[1].stop()
		w.machines[1].disk = before
		w.machines[1].start().awaitRefused()
		w.machines[1].stop()
		w.machines[1].wipe()
		w.machines[1].start()
		w.awaitReady(w.machines...)
	})
}

func TestNobodySpeaksForAnotherNode(t *testing.T) {
	ring := &control.State{ClusterID: "c", Nodes: []control.Node{
		{ID: "n1-aaaa", Name: "n1", State: control.Alive, StartCounter: 3, Incarnation: 7},
		{ID: "n2-bbbb", Name: "n2", State: control.Dead, StartCounter: 3, Incarnation: 8},
		{ID: "n3-cccc", Name: "n3", State: control.Left, StartCounter: 3, Incarnation: 9},
	}}
	register := func(id partition.NodeID, start, incarnation uint64) control.Command {
		return control.Command{RegisterNode: &control.RegisterNode{Node: control.Node{ID: id, StartCounter: start, Incarnation: incarnation}}}
	}
	remove := control.Command{RemoveNode: &control.RemoveNode{Node: "n2-bbbb"}}
	for _, c := range []struct {
		name    string
		from    partition.NodeID
		command control.Command
		ok      bool
	}{
		{"itself", "n2-bbbb", register("n2-bbbb", 4, 1), true},
		{"itself, as a stranger", "n9-zzzz", register("n9-zzzz", 1, 1), true},
		{"another member", "n1-aaaa", register("n2-bbbb", 4, 1), false},
		{"another member, as a stranger", "n9-zzzz", register("n2-bbbb", 4, 1), false},
		{"a newcomer, passed on", "n1-aaaa", register("n9-zzzz", 1, 1), true},
		{"a newcomer, passed on once more", "n1-aaaa", register("n2-bbbb", 3, 8), true},
		{"a newcomer, passed on by a stranger", "n8-yyyy", register("n9-zzzz", 1, 1), false},
		{"a newcomer, passed on by one that left", "n3-cccc", register("n9-zzzz", 1, 1), false},
		{"removal", "n1-aaaa", remove, true},
		{"removal by a stranger", "n9-zzzz", remove, false},
		{"removal by one that left", "n3-cccc", remove, false},
		{"a state", "n1-aaaa", control.Command{SetNodeState: &control.SetNodeState{Node: "n2-bbbb", State: control.Left}}, false},
		{"a placement", "n1-aaaa", control.Command{Place: &control.Place{}}, false},
		{"a replica", "n1-aaaa", control.Command{AddReplica: &control.AddReplica{}}, false},
		{"another cluster", "n1-aaaa", control.Command{Found: &control.Found{ClusterID: "d"}}, false},
	} {
		if err := mayAsk(ring, c.from, c.command); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

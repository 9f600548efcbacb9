package node

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

// oneCluster checks that the machines serve as one cluster with the replicas
// that it should have, and that each reads what each wrote.
func (w *world) oneCluster(machines ...*machine) string {
	w.t.Helper()
	w.awaitReady(machines...)
	id := machines[0].running().ring().ClusterID
	if id == "" {
		w.t.Fatal("no cluster id")
	}
	for _, m := range machines {
		if got := m.running().identity.ClusterID(); got != id {
			w.t.Fatalf("%s belongs to %q, %s to %q", machines[0].name, id, m.name, got)
		}
		m.mustPut("by "+m.name, m.name)
	}
	for _, m := range machines {
		for _, other := range machines {
			other.mustGet("by "+m.name, m.name)
		}
	}
	return id
}

func TestFormation(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(w *world)
	}{
		{"all at once", func(w *world) {
			var starting sync.WaitGroup
			for _, m := range w.machines {
				starting.Go(func() { m.start() })
			}
			starting.Wait()
			w.oneCluster(w.machines...)
		}},
		{"one late", func(w *world) {
			w.machines[0].start()
			w.machines[1].start()
			time.Sleep(time.Minute)
			for _, m := range w.machines[:2] {
				if m.running().ring().Placed() {
					w.t.Errorf("%s: partitions are placed with two of three nodes", m.name)
				}
				if _, fate, err := m.get("k"); fate != refused {
					w.t.Errorf("%s served before there was a cluster: %v", m.name, err)
				}
			}
			w.machines[2].start()
			w.oneCluster(w.machines...)
		}},
		{"the join list names one that comes last", func(w *world) {
			w.options = append(w.options, func(c *Config) { c.Join = []string{"10.0.0.2"} })
			w.machines[0].start()
			w.machines[2].start()
			time.Sleep(10 * time.Second)
			w.machines[1].start()
			w.oneCluster(w.machines...)
		}},
		{"one comes back emptied before", func(w *world) {
			first := w.machines[0].start().id
			w.machines[1].start()
			time.Sleep(5 * time.Second)
			w.machines[0].crash(0)
			w.machines[0].wipe()
			if second := w.machines[0].start().id; second == first {
				w.t.Errorf("the id %s came back with an emptied disk", first)
			}
			time.Sleep(5 * time.Second)
			w.machines[2].start()
			w.oneCluster(w.machines...)
		}},
		{"one comes back emptied afterwards", func(w *world) {
			w.startAll()
			id := w.oneCluster(w.machines...)
			old := w.machines[2].running().id
			w.machines[2].crash(0)
			w.machines[2].wipe()
			p := w.machines[2].start()
			w.eventually(time.Minute, "the emptied node has joined", func() error {
				if got := p.ring().ClusterID; got != id {
					return fmt.Errorf("it knows cluster %q", got)
				}
				if _, ok := p.ring().Node(p.id); !ok {
					return errors.New("it is not registered")
				}
				return nil
			})
			if p.id == old {
				w.t.Errorf("the id %s came back with an emptied disk", old)
			}
			if known, _ := p.ring().Node(old); known.State == control.Alive {
				w.t.Errorf("two nodes of one name are alive: %+v", p.ring().Nodes)
			}
			for p := range p.ring().Partitions {
				w.leaderOf(partition.ID(p), w.machines[0], w.machines[1])
			}
			for i := range 8 {
				w.machines[2].mustPut(fmt.Sprint("after", i), "x") // by forwarding, where it holds no replica
				w.machines[0].mustGet(fmt.Sprint("after", i), "x")
			}
			w.machines[2].mustGet("by n3", "n3")
			// Two nodes of one name, of which one is gone for good, are one in figures.
			for _, m := range w.machines {
				if code, body, err := w.curl("/metrics", m); err != nil || code != http.StatusOK {
					w.t.Errorf("/metrics of %s: %d, %v: %s", m.name, code, err, body)
				}
			}
		}},
		{"a second cluster is not joined to the first", func(w *world) {
			w.startAll()
			w.oneCluster(w.machines...)
			stranger := w.addMachine()
			p := stranger.start(func(c *Config) { c.Cluster = "another"; c.BootstrapExpect = 2 })
			time.Sleep(time.Minute)
			if p.identity.Initialised() || p.ring().Founded() {
				w.t.Error("a node of another cluster name became a member")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, 1)
				defer w.close()
				test.run(w)
			})
		})
	}
}

// The machine that founds loses its power at each sync of its disk in turn,
// and comes back: there is one cluster in the end, of all three.
func TestFounderLosesPower(t *testing.T) {
	stride, keep := 5, []int{0}
	if seeds(1) > 1 {
		stride, keep = 1, []int{0, 50, 100}
	}
	total := 0
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		defer w.close()
		total = foundingSyncs(w)
	})
	t.Logf("founding takes %d syncs", total)
	if total < 10 {
		t.Errorf("only %d syncs of the founder were seen", total)
	}
	for at := 1; at <= total; at += stride {
		for _, percent := range keep {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, uint64(at))
				defer w.close()
				founder := w.machines[0] // the lowest id founds, and n1-.... is the lowest
				power := make(chan struct{})
				count := 0
				var mu sync.Mutex
				var image *vfs.MemFS
				disk := founder.disk
				w.machines[1].start()
				w.machines[2].start()
				process, err := founder.tryStart(onSync(func() {
					mu.Lock()
					defer mu.Unlock()
					if count++; count == at {
						// What this very sync was to save may be there or not.
						founder.silence()
						image = w.image(disk, percent)
						close(power)
					}
				}))
				timer := time.NewTimer(time.Minute)
				select {
				case <-power:
				case <-timer.C:
					return // this run took fewer syncs
				}
				timer.Stop()
				if err == nil {
					w.zombies.Go(func() { _ = process.Close() })
				}
				founder.mu.Lock()
				founder.process, founder.disk = nil, image
				founder.mu.Unlock()
				time.Sleep(w.randomTime(10 * time.Second))
				founder.start()
				w.oneCluster(w.machines...)
				if t.Failed() {
					t.Fatalf("after a power cut at sync %d", at)
				}
			})
		}
	}
}

// foundingSyncs counts the syncs of the founder until the cluster serves.
func foundingSyncs(w *world) int {
	var mu sync.Mutex
	count := 0
	w.machines[0].start(onSync(func() { mu.Lock(); defer mu.Unlock(); count++ }))
	w.machines[1].start()
	w.machines[2].start()
	w.oneCluster(w.machines...)
	mu.Lock()
	defer mu.Unlock()
	return count
}

// silence ends all that the machine's process says, also while it opens.
func (m *machine) silence() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.dead.Store(true)
	m.world.net.Crash(m.host)
}

// onSync calls fn before each sync of a file or directory.
func onSync(fn func()) func(*Config) {
	return func(c *Config) { c.FS = syncingFS{c.FS, fn} }
}

type syncingFS struct {
	vfs.FS
	before func()
}

func (f syncingFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return syncingFile{file, f.before}, nil
}

func (f syncingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, c))
}

func (f syncingFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(f.FS.OpenReadWrite(name, c, o...))
}

func (f syncingFS) OpenDir(name string) (vfs.File, error) { return f.wrap(f.FS.OpenDir(name)) }

func (f syncingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.ReuseForWrite(old, name, c))
}

func (f syncingFS) Unwrap() vfs.FS { return f.FS }

type syncingFile struct {
	vfs.File
	before func()
}

func (f syncingFile) Sync() error { f.before(); return f.File.Sync() }

func (f syncingFile) SyncData() error { f.before(); return f.File.SyncData() }

func (f syncingFile) SyncTo(n int64) (bool, error) { f.before(); return f.File.SyncTo(n) }

// Open says what is wrong, and leaves nothing behind.
func TestOpenFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(w *world) io.Closer
		option func(*Config)
		want   string
	}{
		{"client port in use", listens("10.0.0.1:7820"), nil, "--listen"},
		{"peer port in use", listens("10.0.0.1:7821"), nil, "--listen-peer"},
		{"gossip port in use", listens("10.0.0.1:7822"), nil, "--listen-gossip"},
		{"directory in use", func(w *world) io.Closer {
			if err := w.machines[0].disk.MkdirAll("data", 0o700); err != nil {
				w.t.Fatal(err)
			}
			lock, err := w.machines[0].disk.Lock("data/LOCK")
			if err != nil {
				w.t.Fatal(err)
			}
			return lock
		}, nil, "in use"},
		{"directory of another node", func(w *world) io.Closer {
			w.machines[0].start(func(c *Config) { c.Name = "x" })
			w.machines[0].stop()
			return io.NopCloser(nil)
		}, nil, "another node"},
		{"directory without identity", func(w *world) io.Closer {
			if err := w.machines[0].disk.MkdirAll("data/log", 0o700); err != nil {
				w.t.Fatal(err)
			}
			return io.NopCloser(nil)
		}, nil, "node.json"},
		{"bad name", nil, func(c *Config) { c.Name = "N 1" }, "--name"},
		{"bad partitions", nil, func(c *Config) { c.Partitions = 3 }, "--partitions"},
		{"bad pprof", nil, func(c *Config) { c.Pprof = "10.0.0.1:1" }, "--pprof"},
		{"bad join", nil, func(c *Config) { c.Join = []string{":::"} }, "join"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 1)
				defer w.close()
				var held io.Closer = io.NopCloser(nil)
				if test.before != nil {
					held = test.before(w)
				}
				var options []func(*Config)
				if test.option != nil {
					options = append(options, test.option)
				}
				p, err := w.machines[0].tryStart(options...)
				if err == nil {
					_ = p
					t.Fatal("it started")
				}
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %q does not name %q", err, test.want)
				}
				if err := held.Close(); err != nil {
					t.Fatal(err)
				}
				if test.name == "directory of another node" || test.name == "directory without identity" {
					return // these stay wrong
				}
				// What failed has let everything go: now it starts.
				w.machines[0].start()
				w.oneCluster(w.machines...)
			})
		})
	}
}

func listens(addr string) func(*world) io.Closer {
	return func(w *world) io.Closer {
		l, err := w.net.Host("10.0.0.1").Listen(addr)
		if err != nil {
			w.t.Fatal(err)
		}
		return l
	}
}

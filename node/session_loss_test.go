package node

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// disks hang until a time, a machine at a time: what would make the log durable
// does not return before that.
type disks struct {
	lock sync.Mutex
	ends map[string]time.Time
}

func (d *disks) attach(c *Config) {
	name := c.Name
	c.FS = errorfs.Wrap(c.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		default:
			return nil
		}
		if !strings.HasSuffix(op.Path, ".log") || !strings.Contains(op.Path, "log/") {
			return nil
		}
		d.lock.Lock()
		end := d.ends[name]
		d.lock.Unlock()
		time.Sleep(time.Until(end))
		return nil
	}))
}

// hang has the machine's disk hang until a time.
func (d *disks) hang(m *machine, end time.Time) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.ends == nil {
		d.ends = map[string]time.Time{}
	}
	d.ends[m.name] = end
}

// The disk of a node fails while it takes an eventual write of a session, and
// nothing of the write is left. The session is not to wait for what nobody has:
// once the node is back everything goes on, at every node and level.
func TestASessionOutlivesAWriteThatNobodyHas(t *testing.T) {
	disks := &disks{}
	inCluster(t, 3, func(w *world) {
		n1, n3, key := w.machines[0], w.machines[2], keyIn(0, 4, 1)
		me := &talk{}
		n1.mustWrite(ask{talk: me}, key, "before")
		disks.hang(n3, time.Now().Add(20*time.Second))
		_, err := n3.write(ask{level: eventual, talk: me, wait: time.Second}, keyIn(0, 4, 2), "mine")
		if e := w.refusal(err, replication.Deadline, replication.Unknown); e.Receipt == "" || e.Session == "" {
			t.Errorf("receipt %q, session %q", e.Receipt, e.Session)
		}
		n3.crash(0)
		disks.hang(n3, time.Time{})
		n3.start()
		w.awaitReady(w.machines...)
		for _, m := range w.machines {
			for _, level := range []capstanv1.Consistency{linearizable, bounded, eventual} {
				m.mustRead(ask{talk: me, level: level, within: time.Minute}, key, "before")
			}
			m.mustWrite(ask{talk: me}, keyIn(0, 4, 3), "after")
		}
	}, disks.attach)
}

package node

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

const (
	// deletesShare of the reserve is refused to deletes too: it is left to
	// elections, to what is decided already, and to the databases themselves.
	deletesShare = 4
	// diskLook is how long a look at the free space is used again. A look takes
	// microseconds; a fast disk takes some 2 MiB meanwhile.
	diskLook = 10 * time.Millisecond
	// diskWatch is how often the node looks at its disk by itself, and tells the
	// others while it is nearly full.
	diskWatch = time.Second
	// diskTold is how long another node's disk counts as nearly full after its
	// last word: some words may be lost.
	diskTold = 3 * diskWatch
	// logsShare of the disk are taken up by all logs at most, if followers do not
	// need more of them: they are cut earlier than on a large disk.
	logsShare = 8
	// reclaimEvery is the least time between two attempts to make room.
	reclaimEvery = 5 * time.Second
	// keptShare of the reserve is what all logs together keep for followers that
	// lag, where they are cut for want of room.
	keptShare = 4
)

// diskGuard refuses writes before they fill the disk, so that deletes,
// elections and reads go on. Safe for concurrent use.
type diskGuard struct {
	fs  vfs.FS
	dir string

	mu     sync.Mutex
	looked time.Time
	last   diskUse
}

// diskUse is how full the disk is; the zero value: nobody can tell.
type diskUse struct{ free, total uint64 }

func (u diskUse) reserve() uint64 { return storage.Reserve(u.total) }

// low: what brings data is refused.
func (u diskUse) low() bool { return u.free < u.reserve() }

// tight: what makes room by itself is worth its work.
func (u diskUse) tight() bool { return u.free < 2*u.reserve() }

func (u diskUse) String() string {
	return fmt.Sprintf("%d MiB are free, %d MiB are kept for deletes, elections and reads", u.free>>20, u.reserve()>>20)
}

// use looks at the disk, at most every diskLook.
func (g *diskGuard) use() diskUse {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); g.looked.IsZero() || now.Sub(g.looked) >= diskLook {
		g.looked, g.last = now, diskUse{}
		// Where nobody can tell how much is free, a full disk says so itself.
		if u, err := g.fs.GetDiskUsage(g.dir); err == nil {
			g.last = diskUse{u.AvailBytes, u.TotalBytes}
		}
	}
	return g.last
}

// check is nil while there is room for a write: less of it is needed to delete.
func (g *diskGuard) check(deletes bool) error {
	u := g.use()
	if !u.low() || deletes && u.free >= u.reserve()/deletesShare {
		return nil
	}
	return diskFull("the disk is nearly full: "+u.String(), "deletes, another node, or again when there is room")
}

func diskFull(message, try string) *replication.Error {
	return &replication.Error{Reason: replication.DiskFull, Outcome: replication.NotApplied, Message: message, Try: try}
}

// fullDisks are the other nodes whose disks are nearly full, by their own word.
// Safe for concurrent use.
type fullDisks struct {
	some  atomic.Bool // false: there is none, and nobody needs to look
	mu    sync.Mutex
	until map[partition.NodeID]time.Time
}

// told notes the word of a node.
func (f *fullDisks) told(node partition.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = map[partition.NodeID]time.Time{}
	}
	f.until[node] = time.Now().Add(diskTold)
	f.some.Store(true)
}

// among are those of nodes whose disks are nearly full.
func (f *fullDisks) among(nodes []partition.NodeID) (full []partition.NodeID) {
	if !f.some.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for node, until := range f.until {
		if !now.Before(until) {
			delete(f.until, node)
		}
	}
	f.some.Store(len(f.until) > 0)
	for _, node := range nodes {
		if _, ok := f.until[node]; ok {
			full = append(full, node)
		}
	}
	return full
}

// roomFor refuses a linearizable write at the leader: by its own disk, and where
// so many of the voters have no room for more data that the others are no
// quorum. A follower alone, on a small disk, does not stop its partition.
func (n *Node) roomFor(group *replication.Group, deletes bool) error {
	if err := n.disk.check(deletes); err != nil {
		return err
	}
	if deletes || !n.fullDisks.some.Load() {
		return nil
	}
	voters := []partition.NodeID{}
	for _, m := range group.Status().Members {
		if !m.Nonvoter {
			voters = append(voters, m.Node)
		}
	}
	full := n.fullDisks.among(voters)
	if len(voters)-len(full) > len(voters)/2 {
		return nil
	}
	return diskFull("too few replicas have room: the disks of "+strings.Join(namesOf(n.ring(), full), ", ")+" are nearly full",
		"deletes, or again when there is room")
}

// watchDisk tells the others while the disk is nearly full, says so in the log
// when that begins and ends, and makes room. It ends with the node.
func (n *Node) watchDisk() {
	tick := time.NewTicker(diskWatch)
	defer tick.Stop()
	var low bool
	var reclaimed time.Time
	var applied uint64
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		u := n.disk.use()
		if was := low; u.low() != was {
			low = !was
			n.journal.diskLow(u)
		}
		if low {
			for _, node := range n.ring().Members() {
				if node != n.id && n.transport.Connected(node) {
					_ = n.transport.Notify(node, kindDiskLow, nil) // said again in a second
				}
			}
		}
		if u.total == 0 || time.Since(reclaimed) < reclaimEvery {
			continue
		}
		logs, err := n.log.Metrics()
		if err != nil || !u.tight() && logs.DiskBytes < u.total/logsShare {
			continue
		}
		now := n.appliedInAll()
		if now == applied {
			continue // nothing was cut off or deleted since
		}
		applied, reclaimed = now, time.Now()
		if err := n.makeRoom(u, logs.DiskBytes); err != nil && n.ctx.Err() == nil {
			n.journal.log.Debug("no room was made, will be tried again", "err", err)
		}
	}
}

func (n *Node) handleDiskLow(_ context.Context, from partition.NodeID, _ []byte) ([]byte, error) {
	n.fullDisks.told(from)
	return nil, nil
}

// appliedInAll grows whenever one of the replicas here applies something.
func (n *Node) appliedInAll() (sum uint64) {
	for _, here := range n.replicas.all() {
		applied, _ := here.state.Applied()
		sum += applied
	}
	return sum
}

// makeRoom cuts the logs, which take up so many bytes, to less than followers are
// usually left. Then the databases give back what was cut off and, if the disk is
// tight, what was deleted and overwritten.
func (n *Node) makeRoom(u diskUse, logs uint64) error {
	all := n.replicas.all()
	if len(all) == 0 {
		return nil
	}
	keep := int64(u.reserve()) / keptShare / int64(len(all))
	for _, here := range all {
		if here.failed() {
			continue
		}
		if err := here.group.CutLogTo(keep, !u.tight()); err != nil {
			return fmt.Errorf("log of partition %d: %w", here.partition, err)
		}
	}
	if u.tight() {
		logs = u.reserve() / keptShare
	}
	if err := n.log.Reclaim(n.ctx, logs); err != nil {
		return fmt.Errorf("log database: %w", err)
	}
	if !u.tight() {
		return nil
	}
	if err := n.state.Reclaim(n.ctx); err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	return nil
}

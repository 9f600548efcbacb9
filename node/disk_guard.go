package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/replication"
)

const (
	// diskReserve is kept free for the Raft logs, which the other nodes' writes
	// and everything that ends a backlog need, and for compactions. On a small
	// disk it is a twentieth of it.
	diskReserve = 256 << 20
	// diskLook is how long a look at the free space is used again.
	diskLook = time.Second
)

// diskGuard refuses eventual writes before they fill the disk: unlike
// linearizable ones they pile up while there is no leader.
// Safe for concurrent use.
type diskGuard struct {
	fs  vfs.FS
	dir string

	mu     sync.Mutex
	looked time.Time
	full   error
}

// check is nil while there is room.
func (g *diskGuard) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); g.looked.IsZero() || now.Sub(g.looked) >= diskLook {
		g.looked = now
		// Where nobody can tell how much is free, a full disk says so itself.
		usage, err := g.fs.GetDiskUsage(g.dir)
		g.full = nil
		if err == nil {
			g.full = roomOn(usage)
		}
	}
	return g.full
}

func roomOn(u vfs.DiskUsage) error {
	reserve := min(diskReserve, u.TotalBytes/20)
	if u.AvailBytes >= reserve {
		return nil
	}
	return &replication.Error{
		Reason: replication.DiskFull, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("the disk is nearly full: %d MiB are free, %d MiB are kept for what must go on", u.AvailBytes>>20, reserve>>20),
		Try:     "another node, or again when there is room",
	}
}

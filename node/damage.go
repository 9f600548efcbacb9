package node

import (
	"errors"
	"fmt"
	"sync"

	"github.com/capstan-kv/capstan/storage"
)

// maxVainExaminations of one damaged table may find no damaged replica. What is
// damaged is then in nobody's keys; the database meets it again each time it
// compacts the table, and never gets rid of it.
const maxVainExaminations = 3

// damagedTables are the tables of the state database that were found damaged and not
// looked into yet. Safe for concurrent use; taking a table in does not wait.
type damagedTables struct {
	mu    sync.Mutex
	found map[string]storage.EventCorruption // by path
	wake  chan struct{}
}

func newDamagedTables() *damagedTables {
	return &damagedTables{found: map[string]storage.EventCorruption{}, wake: make(chan struct{}, 1)}
}

func (d *damagedTables) add(e storage.EventCorruption) {
	d.mu.Lock()
	d.found[e.Path] = e
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *damagedTables) take() map[string]storage.EventCorruption {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := d.found
	d.found = map[string]storage.EventCorruption{}
	return found
}

// mendDamage looks into damaged tables of the state database, until the node ends.
func (n *Node) mendDamage() {
	vain := map[string]int{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.damaged.wake:
		}
		for path, table := range n.damaged.take() {
			lost, err := n.mendTable(table)
			switch {
			case n.ctx.Err() != nil:
				return
			case err == nil && lost > 0:
				delete(vain, path)
				continue
			case err == nil:
				if vain[path]++; vain[path] < maxVainExaminations {
					continue
				}
				err = errors.New("what is damaged belongs to no replica")
			}
			n.fail(fmt.Errorf("the state database has a damaged table, %s, that it cannot be freed of: %w: "+
				"stop the node, move %s aside and start again: what the Raft logs still hold is applied anew, "+
				"replicas that lack more are quarantined", path, err, n.stateDir()))
			return
		}
	}
}

// mendTable takes the replicas whose keys in the table cannot be read out of service,
// and their keys out of the database: it would meet the damage again with each
// compaction. It returns how many there were.
func (n *Node) mendTable(table storage.EventCorruption) (int, error) {
	s := n.replicas
	s.following.Lock() // whose keys are whose is known once no replica is just being opened
	defer s.following.Unlock()
	known := s.stored()
	damaged, err := n.state.Examine(known, table.Start, table.End)
	if err != nil || len(damaged) == 0 {
		return 0, err
	}
	for r, why := range damaged {
		s.fail(r, why)
	}
	s.leaving.Wait()
	var lost []storage.Replica
	for r := range damaged {
		if p, ok := r.Group.Partition(); !ok || s.quarantined(p) {
			lost = append(lost, r)
		}
	}
	discard := func() error { return n.state.Discard(lost, known) }
	if damaged[controlReplica] == nil {
		return len(lost), discard()
	}
	select {
	case <-n.controlUp: // it has in memory what the table has
		return len(lost), n.control.machine.rewrite(discard)
	case <-n.ctx.Done():
		return 0, n.ctx.Err()
	}
}

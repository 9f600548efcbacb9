package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/raftlog"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

// groupParts are what stands behind an open group, to be closed after it.
type groupParts struct {
	group     *replication.Group
	store     *raftlog.Store
	snapshots *raftlog.Snapshots
	link      *transport.GroupTransport
}

// close stops the group first: nothing below it may go away under its hands.
func (g *groupParts) close() error {
	var errs []error
	if g.group != nil {
		errs = append(errs, g.group.Close())
	}
	if g.link != nil {
		errs = append(errs, g.link.Close())
	}
	if g.snapshots != nil {
		errs = append(errs, g.snapshots.Close())
	}
	if g.store != nil {
		errs = append(errs, g.store.Close())
	}
	return errors.Join(errs...)
}

// groupOpener has what every group of this node shares.
type groupOpener struct {
	self      partition.NodeID
	dir       string
	onDisk    bool // the machine's own file system: bolt can work
	marks     *storage.Marks
	log       *storage.Log
	host      *replication.Host
	transport *transport.Transport
	failed    func(error) // the control group's log can not be written or read any more
}

const controlFile = "control.bolt"

// openGroup opens a replica whose machine is m. Bootstrap is the group's first
// configuration, or nil for a replica that others will add.
func (o *groupOpener) openGroup(r storage.Replica, m replication.Machine, bootstrap []replication.Member, campaign bool) (_ *groupParts, err error) {
	parts := &groupParts{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("replica %v: %w", r, err), parts.close())
		}
	}()
	if parts.store, err = o.openStore(r); err != nil {
		return nil, err
	}
	machine := raftlog.Machine{
		View:  func() (raftlog.View, error) { return m.View() },
		Stage: func() (raftlog.Stage, error) { return m.Stage() },
	}
	// The control group's state does not know whether it was installed: its machine
	// compares what it applies.
	if of, ok := m.(interface{ AppliedFromLog() (index, term uint64) }); ok {
		machine.AppliedFromLog = of.AppliedFromLog
	}
	parts.snapshots = parts.store.Snapshots(machine)
	if err := errors.Join(stateHoldsSnapshot(parts.snapshots, m), parts.store.CheckState()); err != nil {
		return nil, err
	}
	parts.link = o.transport.Group(r)
	parts.link.SetStager(stager{parts.snapshots})
	parts.group, err = o.host.Open(replication.GroupConfig{
		Replica: r, Store: parts.store, Snapshots: parts.snapshots, Transport: parts.link,
		Machine: m, Bootstrap: bootstrap, Campaign: campaign, Stalled: parts.store.Stalled,
	})
	return parts, err
}

// stateHoldsSnapshot refuses a state that lacks what the log was cut behind:
// somebody emptied state/ and left log/, and what is missing can be read
// nowhere on this node.
func stateHoldsSnapshot(snapshots *raftlog.Snapshots, m replication.Machine) error {
	metas, err := snapshots.List()
	if err != nil || len(metas) == 0 {
		return err
	}
	if applied, _ := m.Applied(); applied < metas[0].Index {
		return fmt.Errorf("%w: state/ ends at entry %d, and log/ was cut behind entry %d", errStateBehindLog, applied, metas[0].Index)
	}
	return nil
}

// stager receives snapshots for a group.
type stager struct{ snapshots *raftlog.Snapshots }

func (s stager) Wants(index uint64) error { return s.snapshots.Wants(index) }

func (s stager) Stage(_ context.Context, stream io.Reader) ([]byte, func(), error) {
	ticket, err := s.snapshots.Stage(stream)
	return ticket, func() { _ = s.snapshots.Drop(ticket) }, err
}

// openStore opens the Raft log of r: that of the control group in a file of its own, all
// others in the log database.
func (o *groupOpener) openStore(r storage.Replica) (*raftlog.Store, error) {
	log, err := o.log.Replica(r)
	if err != nil {
		return nil, err
	}
	// A replica that was here before must find its log again, where it was: without its
	// vote it could give a second one, and what it acknowledged would be gone. That it
	// was here stands in the log database, which the node's identity vouches for.
	_, err = log.Get(boltMark)
	known := err == nil
	if err != nil && !errors.Is(err, storage.ErrLogNotFound) {
		return nil, err
	}
	control := r.Group == storage.ControlGroup && o.onDisk
	switch {
	case !control && known:
		return nil, errors.New("its Raft log, and the votes in it, are in a file of its own, as an earlier release wrote with " +
			"--raft-log=bolt; this release does not read that: " + storage.EmptyDirectory)
	case !control:
		return raftlog.Open(log)
	}
	store, err := raftlog.OpenBolt(raftlog.BoltOptions{
		Path: filepath.Join(o.dir, controlFile), NodeID: o.self, MustExist: known, Marks: o.marks, Failed: o.failed,
	})
	if err != nil {
		return nil, err
	}
	if !known {
		if err := log.Set(storage.LogValue{Name: boltMark, Value: []byte{1}}); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	return store, nil
}

// boltMark says, in the log database, that a replica's log is a bolt file.
const boltMark = "node/bolt"

// onDisk looks through what stands before the machine's file system.
func onDisk(fs vfs.FS) bool { return vfs.Root(fs) == vfs.Default }

package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
)

const (
	// driverInterval is how often the placement driver looks without being
	// woken: leadership changes wake nobody.
	driverInterval = 5 * time.Second
	// driverEager is how soon it looks again while something was to be done, or
	// will be as soon as a node has caught up.
	driverEager = 250 * time.Millisecond
	// stepWait bounds one step.
	stepWait = 10 * time.Second
	// caughtUpWithin is how many entries a follower may be behind and still be
	// given a vote in the control group, or the leadership of a partition: one
	// append carries them.
	caughtUpWithin = 64
)

// driver is the placement driver: while this node leads the control group, it
// compares what is with what should be and takes the steps that control.Next
// names. It keeps nothing: whoever leads next decides anew.
type driver struct {
	self partition.NodeID
	// registered is closed once this start is registered: before that, it decides
	// nothing.
	registered <-chan struct{}
	control    *controlGroup
	expect     int
	// alive is gossip's view.
	alive func() map[partition.NodeID]bool
	// ask gets the status of one node.
	ask func(context.Context, partition.NodeID) (nodeStatus, error)
	// transfer has the leader of a partition hand over.
	transfer func(context.Context, partition.Transfer) error
	// failed is when a transfer of a partition failed last: each attempt holds up its
	// writes, so that the next one waits for driverInterval. Owned by run.
	failed   map[partition.ID]time.Time
	wake     <-chan struct{} // gossip has changed
	log      *slog.Logger
	failures seldom
}

func (d *driver) run(ctx context.Context) {
	select {
	case <-d.registered:
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := d.control.machine.watch()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-changed:
		case <-d.wake:
		}
		pause := driverInterval
		if d.control.group.Leads() && d.round(ctx) {
			pause = driverEager
		}
		timer.Reset(pause)
	}
}

// round takes the steps that are due and says whether to look again soon.
func (d *driver) round(ctx context.Context) bool {
	observed, statuses := d.observe(ctx)
	steps := control.Next(observed)
	steps = slices.DeleteFunc(steps, func(step control.Step) bool {
		transfer, ok := step.(control.TransferLeader)
		return ok && (lags(statuses, transfer.Transfer) || time.Since(d.failed[transfer.Partition]) < driverInterval)
	})
	for _, step := range steps {
		ctx, cancel := context.WithTimeout(ctx, stepWait)
		err := d.take(ctx, step)
		cancel()
		if err != nil {
			// The next round decides anew; some failures are the way of things,
			// as a transfer to a node that has just gone.
			if silent, due := d.failures.due(fmt.Sprint(step, err)); due {
				d.log.Warn("placement step failed", "step", step, "err", err, "silent_repeats", silent)
			}
			if transfer, ok := step.(control.TransferLeader); ok {
				if d.failed == nil {
					d.failed = map[partition.ID]time.Time{}
				}
				d.failed[transfer.Partition] = time.Now()
			}
			continue
		}
		d.log.Debug("placement step", "step", step)
	}
	return len(steps) > 0 || observed.VotePending()
}

func (d *driver) take(ctx context.Context, step control.Step) error {
	switch step := step.(type) {
	case control.Propose:
		result, err := d.control.proposeHere(ctx, step.Command)
		if err != nil {
			return err
		}
		return result.Err()
	case control.TransferLeader:
		return d.transfer(ctx, step.Transfer)
	default:
		return d.control.change(ctx, step)
	}
}

// lags reports whether the node that should lead next is still far from having
// the log, or does not answer: a transfer would hold up the partition's writes,
// for an election timeout, and fail.
func lags(statuses map[partition.NodeID]nodeStatus, t partition.Transfer) bool {
	to, answered := statuses[t.To]
	return !answered || to.applied(t.Partition)+caughtUpWithin < leaders(statuses)[t.Partition].commit
}

// noVoteYet reports whether a follower of the control group is too far behind for a
// vote. One that has applied nothing may not even have opened its replica: it
// was registered, and has not heard of that yet. With its vote needed, and only
// a leader able to tell it, there would never be a leader again.
func noVoteYet(applied, commit uint64) bool { return applied == 0 || applied+caughtUpWithin < commit }

func (d *driver) observe(ctx context.Context) (control.Observed, map[partition.NodeID]nodeStatus) {
	state := d.control.machine.current()
	alive := d.alive()
	alive[d.self] = true
	observed := control.Observed{State: state, Alive: alive, BootstrapExpect: d.expect, Servers: d.control.servers()}
	var nodes []partition.NodeID
	for _, n := range state.Nodes {
		if alive[n.ID] {
			nodes = append(nodes, n.ID)
		}
	}
	statuses := askStatus(ctx, d.ask, nodes)
	commit := d.control.group.Status().Commit
	for i, server := range observed.Servers {
		status, answered := statuses[server.Node]
		observed.Servers[i].Lagging = !answered || noVoteYet(status.ControlApplied, commit)
	}
	observed.Lost = lostReplicas(statuses)
	observed.Leaders = make([]partition.NodeID, len(state.Partitions))
	for p, leader := range leaders(statuses) {
		if int(p) < len(observed.Leaders) {
			observed.Leaders[p] = leader.node
		}
	}
	return observed, statuses
}

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// removalRetry is the pause between two attempts at a removal. The node may have
// to be noticed dead by the control group's leader first.
const removalRetry = 200 * time.Millisecond

// RemoveNode takes a node that is down out of the cluster for ever. That can not
// be undone: should its disk come back, the node is refused. What it accepted
// and told nobody of is lost, which the request has to agree to: of a node that
// is down nobody knows whether there is any.
func (c clusterService) RemoveNode(ctx context.Context, req *capstanv1.RemoveNodeRequest) (*capstanv1.RemoveNodeResponse, error) {
	n := c.node
	ring := n.ring()
	if !ring.Founded() {
		return nil, notInCluster()
	}
	known, ok := named(ring, req.GetNode())
	switch {
	case !ok:
		return nil, badOption("there is no node %q", req.GetNode())
	case known.State == control.Left:
		return &capstanv1.RemoveNodeResponse{}, nil
	case known.ID == n.id || n.alive()[known.ID]:
		refusal := badOption("%s is alive: a node is removed when it is drained or down", known.Name)
		refusal.Try = "drain it first, or stop it"
		return nil, refusal
	case !req.GetForfeitTentative():
		refusal := badOption("%s is down, so nobody knows whether it holds eventual writes that no other node has: "+
			"removing it declares them lost", known.Name)
		refusal.Try = "start it again, or say --forfeit-tentative"
		return nil, refusal
	}
	if err := n.remove(ctx, known); err != nil {
		return nil, err
	}
	n.journal.log.Warn("a node was removed from the cluster for ever", "node", known.ID)
	return &capstanv1.RemoveNodeResponse{}, nil
}

// named is the node that has the id, else the one that the name means.
func named(ring *control.State, nameOrID string) (control.Node, bool) {
	if known, ok := ring.Node(partition.NodeID(nameOrID)); ok {
		return known, true
	}
	return ring.Holder(nameOrID)
}

// remove has the control group remove a node, and returns when this node knows.
// Removing twice is removing once, so that an attempt of unknown outcome may be
// repeated.
func (n *Node) remove(ctx context.Context, known control.Node) error {
	command := control.Command{RemoveNode: &control.RemoveNode{Node: known.ID, Incarnation: known.Incarnation}}
	for accepted, unknown := false, false; ; {
		changed := n.control.machine.watch()
		if now, ok := n.ring().Node(known.ID); ok && now.State == control.Left {
			return nil
		}
		result, _, err := n.control.propose(ctx, command)
		switch rejection := result.Rejection; {
		case err != nil:
			unknown = unknown || !definite(err)
		case rejection == nil:
			accepted = true // and this node hears of it soon
		case rejection.Reason != control.NodeAlive:
			return badOption("%s", rejection.Message)
		default:
			err = rejection
		}
		timer := time.NewTimer(removalRetry)
		select {
		case <-changed:
		case <-timer.C:
		case <-n.ctx.Done():
		case <-ctx.Done():
		}
		timer.Stop()
		switch {
		case ctx.Err() == nil && n.ctx.Err() == nil:
		case accepted:
			return nil
		default:
			return removalFailed(known, err, unknown)
		}
	}
}

func removalFailed(known control.Node, err error, unknown bool) error {
	failed := &replication.Error{
		Reason: replication.Deadline, Outcome: replication.NotApplied,
		Message: fmt.Sprintf("%s was not removed in time", known.Name), Err: err,
	}
	if unknown {
		failed.Outcome = replication.Unknown
		failed.Message = fmt.Sprintf("whether %s was removed is not known", known.Name)
		failed.Try = "ask for the status, or again: removing twice does no harm"
	}
	return failed
}

// definite reports whether a control command that failed was certainly not
// carried out.
func definite(err error) bool {
	var refused *replication.Error
	if errors.As(err, &refused) {
		return refused.Outcome == replication.NotApplied
	}
	if errors.Is(err, transport.ErrLost) {
		return false // sent, whatever the cause
	}
	for _, certain := range []error{transport.ErrUnreachable, transport.ErrBusy, transport.ErrNoHandler, transport.ErrClosed} {
		if errors.Is(err, certain) {
			return true
		}
	}
	return false
}

// onTransportEvent: a node that the others have removed, or whose directory is an
// older copy, can serve nobody, and what it would go on accepting would be lost.
func (n *Node) onTransportEvent(e transport.Event) {
	n.journal.transport(e)
	switch e := e.(type) {
	case transport.Refused:
		switch {
		case errors.Is(e.Err, transport.ErrRemoved):
			n.refuse(e.Peer, fmt.Sprintf("node %s was removed from the cluster", n.id))
		case errors.Is(e.Err, transport.ErrOutdated):
			n.refuse(e.Peer, fmt.Sprintf("a later start of node %s is registered: the directory is an older copy", n.id))
		}
	case transport.Refuted:
		n.refuse(e.Peer, refutation(e))
	}
}

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

// controlGeneration is the generation of every control replica: a node has one
// in its life, since an emptied disk makes a new node.
const controlGeneration = 1

var controlReplica = storage.Replica{Group: storage.ControlGroup, Generation: controlGeneration}

// controlWait bounds one control command on its way to the leader and back.
const controlWait = 5 * time.Second

// controlGroup is this node's replica of the control group.
type controlGroup struct {
	*groupParts
	self    partition.NodeID
	machine *controlMachine
	peers   *transport.Transport
}

// propose carries out a command at the control group's leader, wherever that
// is. The result's rejection, if there is one, is an answer and not an error.
func (c *controlGroup) propose(ctx context.Context, command control.Command) (control.Result, error) {
	data, err := control.EncodeCommand(command)
	if err != nil {
		return control.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
	leader, ok := c.group.Leader()
	if !ok || leader.Node == c.self {
		return c.proposeHere(ctx, data)
	}
	return askControl(ctx, c.peers, leader.Node, data, false)
}

func (c *controlGroup) proposeHere(ctx context.Context, data []byte) (control.Result, error) {
	answer, err := c.group.Propose(ctx, data)
	if err != nil {
		return control.Result{}, err
	}
	result, ok := answer.(control.Result)
	if !ok {
		return control.Result{}, fmt.Errorf("control group: apply answered with %T", answer)
	}
	return result, nil
}

// A control command travels behind one byte: whether its receiver may pass it
// on, once, to the leader.
const (
	controlForLeader byte = iota
	controlForAnyone
)

// askControl hands a command to another node's control group. passOn lets that
// node hand it to the leader.
func askControl(ctx context.Context, peers *transport.Transport, to partition.NodeID, data []byte, passOn bool) (control.Result, error) {
	mark := controlForLeader
	if passOn {
		mark = controlForAnyone
	}
	answer, err := peers.Call(ctx, to, kindControl, append([]byte{mark}, data...))
	if err != nil {
		return control.Result{}, fmt.Errorf("control group at %s: %w", to, err)
	}
	var result control.Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return control.Result{}, fmt.Errorf("control group at %s: %w", to, err)
	}
	return result, nil
}

// handle answers another node's command. A node that does not belong to the
// cluster may register itself, and nothing else.
func (c *controlGroup) handle(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	if len(payload) == 0 || payload[0] > controlForAnyone {
		return nil, errors.New("control command: not understood")
	}
	mark, data := payload[0], payload[1:]
	command, err := control.DecodeCommand(data)
	if err != nil {
		return nil, err
	}
	if known, ok := c.machine.current().Node(from); !ok || known.State == control.Left {
		if command.RegisterNode == nil || command.RegisterNode.Node.ID != from {
			return nil, fmt.Errorf("%s is no member of this cluster and may only register itself", from)
		}
	}
	var result control.Result
	if mark == controlForAnyone {
		result, err = c.propose(ctx, command)
	} else {
		result, err = c.proposeHere(ctx, data)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// servers is the control group's membership as the driver wants to see it.
func (c *controlGroup) servers() []control.Server {
	status := c.group.Status()
	out := make([]control.Server, 0, len(status.Members))
	for _, member := range status.Members {
		out = append(out, control.Server{Node: member.Node, Voter: !member.Nonvoter})
	}
	return out
}

// change carries out a step that is about the control group's own membership.
func (c *controlGroup) change(ctx context.Context, step control.Step) error {
	member := func(node partition.NodeID) replication.Member {
		return replication.Member{Node: node, Generation: controlGeneration}
	}
	switch step := step.(type) {
	case control.AddControlNonvoter:
		return c.group.AddNonvoter(ctx, member(step.Node))
	case control.AddControlVoter:
		return c.group.AddVoter(ctx, member(step.Node))
	case control.RemoveControlServer:
		return c.group.Remove(ctx, member(step.Node))
	}
	return fmt.Errorf("control group: unknown step %v", step)
}

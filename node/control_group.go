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
// is, and names it. The result's rejection, if there is one, is an answer and not
// an error.
func (c *controlGroup) propose(ctx context.Context, command control.Command) (control.Result, partition.NodeID, error) {
	leader, ok := c.group.Leader()
	if !ok || leader.Node == c.self {
		result, err := c.proposeHere(ctx, command)
		return result, c.self, err
	}
	data, err := control.EncodeCommand(command)
	if err != nil {
		return control.Result{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
	result, err := askControl(ctx, c.peers, leader.Node, data, false)
	return result, leader.Node, err
}

// proposeToAny asks every other voter at once to carry out a command, and names the
// one that did: only the leader can. It is for commands that may be repeated.
func (c *controlGroup) proposeToAny(ctx context.Context, command control.Command) (control.Result, partition.NodeID, error) {
	data, err := control.EncodeCommand(command)
	if err != nil {
		return control.Result{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
	type answer struct {
		by     partition.NodeID
		result control.Result
		err    error
	}
	asked, answers := 0, make(chan answer, control.MaxControlVoters) // room for each: nobody waits
	for _, server := range c.servers() {
		if !server.Voter || server.Node == c.self || asked == cap(answers) {
			continue
		}
		asked++
		go func() {
			result, err := askControl(ctx, c.peers, server.Node, data, false)
			answers <- answer{server.Node, result, err}
		}()
	}
	failed := errors.New("no leader of the control group was found")
	for range asked {
		a := <-answers
		if a.err == nil {
			return a.result, a.by, nil
		}
		failed = errors.Join(failed, a.err)
	}
	return control.Result{}, "", failed
}

// proposeHere carries out a command if this node leads the control group.
func (c *controlGroup) proposeHere(ctx context.Context, command control.Command) (control.Result, error) {
	data, err := control.EncodeCommand(command)
	if err != nil {
		return control.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
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

// handle answers another node's command.
func (c *controlGroup) handle(ctx context.Context, from partition.NodeID, payload []byte) ([]byte, error) {
	if len(payload) == 0 || payload[0] > controlForAnyone {
		return nil, errors.New("control command: not understood")
	}
	command, err := control.DecodeCommand(payload[1:])
	if err != nil {
		return nil, err
	}
	if err := mayAsk(c.machine.current(), from, command); err != nil {
		return nil, err
	}
	var result control.Result
	if payload[0] == controlForAnyone {
		result, _, err = c.propose(ctx, command)
	} else {
		result, err = c.proposeHere(ctx, command)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// mayAsk says why a node may not have this command carried out, or nil. Nobody
// speaks for another node: a node registers itself. A member may pass on the
// registration of one that the cluster does not know yet, and ask for the removal
// of a node. All else is for the leader of the control group, which asks nobody.
func mayAsk(ring *control.State, from partition.NodeID, command control.Command) error {
	known, ok := ring.Node(from)
	member := ok && known.State != control.Left
	switch {
	case command.RegisterNode != nil:
		of := command.RegisterNode.Node
		if of.ID == from {
			return nil
		}
		if registered, ok := ring.Node(of.ID); member && (!ok || registered.Start() == of.Start()) {
			return nil
		}
	case command.RemoveNode != nil && member:
		return nil
	}
	return fmt.Errorf("%s may not ask for this: %s", from, command)
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

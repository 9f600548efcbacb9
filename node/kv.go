package node

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/capstan-kv/capstan/api"
	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Get answers api.KV.
func (r *router) Get(ctx context.Context, req *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := onlyLinearizable(req.GetConsistency(), req.GetSession()); err != nil {
		return nil, err
	}
	return onKey(ctx, r, hopGet, req.GetKey(), req, new(capstanv1.GetResponse),
		func(ctx context.Context, here *replica) (*capstanv1.GetResponse, error) { return here.get(ctx, req) })
}

// Put answers api.KV.
func (r *router) Put(ctx context.Context, req *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := onlyLinearizable(req.GetConsistency(), req.GetSession()); err != nil {
		return nil, err
	}
	return onKey(ctx, r, hopPut, req.GetKey(), req, new(capstanv1.PutResponse),
		func(ctx context.Context, here *replica) (*capstanv1.PutResponse, error) {
			return here.put(ctx, req, r.clock)
		})
}

// Delete answers api.KV.
func (r *router) Delete(ctx context.Context, req *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := onlyLinearizable(req.GetConsistency(), req.GetSession()); err != nil {
		return nil, err
	}
	return onKey(ctx, r, hopDelete, req.GetKey(), req, new(capstanv1.DeleteResponse),
		func(ctx context.Context, here *replica) (*capstanv1.DeleteResponse, error) {
			return here.delete(ctx, req, r.clock)
		})
}

// AwaitWrite and ListConflicts belong to eventual writes.
func (r *router) AwaitWrite(context.Context, *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	return nil, api.ErrUnimplemented("receipts")
}

// ListConflicts: see AwaitWrite.
func (r *router) ListConflicts(context.Context, *capstanv1.ListConflictsRequest, func(*capstanv1.ListConflictsResponse) error) error {
	return api.ErrUnimplemented("conflicts")
}

// MergeSessions belongs to session tokens, which this release does not give.
func (r *router) MergeSessions(context.Context, []string) (string, error) {
	return "", api.ErrUnimplemented("a session token")
}

// onlyLinearizable refuses what this release does not serve yet, rather than
// answer it at another level than was asked for.
func onlyLinearizable(level capstanv1.Consistency, session string) error {
	switch level {
	case capstanv1.Consistency_CONSISTENCY_UNSPECIFIED, capstanv1.Consistency_CONSISTENCY_LINEARIZABLE:
	default:
		return api.ErrUnimplemented("a consistency level other than linearizable")
	}
	if session != "" {
		return api.ErrUnimplemented("a session token")
	}
	return nil
}

// get reads linearizably from the replica here, whichever its role: the state
// is read once it holds every write acknowledged before the read index was
// asked for.
func (h *replica) get(ctx context.Context, req *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := h.fresh(ctx); err != nil {
		return nil, err
	}
	value, found, err := h.state.Get(req.GetKey())
	if err != nil {
		return nil, fmt.Errorf("read partition %d: %w", h.partition, err)
	}
	resp := &capstanv1.GetResponse{Freshness: h.linearizable()}
	if found && !value.Tombstone {
		resp.Found, resp.Value, resp.Version = true, value.Bytes, versionMessage(value.Version)
	}
	return resp, nil
}

// fresh returns once the state here holds every write that was acknowledged
// before the call.
func (h *replica) fresh(ctx context.Context) error {
	index, err := h.group.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return h.group.WaitApplied(ctx, index)
}

func (h *replica) linearizable() *capstanv1.Freshness {
	return &capstanv1.Freshness{ServedBy: h.servedBy, Staleness: &durationpb.Duration{}}
}

func (h *replica) put(ctx context.Context, req *capstanv1.PutRequest, clock *hlc.Clock) (*capstanv1.PutResponse, error) {
	result, err := h.write(ctx, storage.Command{
		Kind: storage.CommandPut, Key: req.GetKey(), Value: req.GetValue(), Condition: condition(req.GetCondition()),
	}, clock)
	if err != nil {
		return nil, err
	}
	return &capstanv1.PutResponse{Version: versionMessage(result.Version), ServedBy: h.servedBy}, nil
}

func (h *replica) delete(ctx context.Context, req *capstanv1.DeleteRequest, clock *hlc.Clock) (*capstanv1.DeleteResponse, error) {
	result, err := h.write(ctx, storage.Command{
		Kind: storage.CommandDelete, Key: req.GetKey(), Condition: condition(req.GetCondition()),
	}, clock)
	if err != nil {
		return nil, err
	}
	return &capstanv1.DeleteResponse{Version: versionMessage(result.Version), Existed: &result.Existed, ServedBy: h.servedBy}, nil
}

// write proposes c at the replica here, which refuses where it does not lead.
func (h *replica) write(ctx context.Context, c storage.Command, clock *hlc.Clock) (storage.CommandResult, error) {
	c.Level, c.Timestamp, c.Node = storage.LevelLinearizable, clock.Now(), h.node
	command, err := storage.AppendCommand(nil, c)
	if err != nil {
		return storage.CommandResult{}, &replication.Error{
			Reason: replication.BadOption, Outcome: replication.NotApplied, Message: "the write cannot be encoded", Err: err,
		}
	}
	answer, err := h.group.Propose(ctx, command)
	if err != nil {
		return storage.CommandResult{}, err
	}
	result, ok := answer.(storage.CommandResult)
	if !ok {
		return storage.CommandResult{}, fmt.Errorf("partition %d: apply answered with %T", h.partition, answer)
	}
	if result.ConditionFailed {
		return storage.CommandResult{}, conditionFailed(result.Current)
	}
	return result, nil
}

func conditionFailed(current *storage.Version) *replication.Error {
	message := "condition failed: the key is absent"
	if current != nil {
		message = "condition failed: the key has version " + current.String()
	}
	return &replication.Error{
		Reason: replication.ConditionFailed, Outcome: replication.NotApplied, Message: message, Current: current,
	}
}

func condition(c *capstanv1.Condition) storage.Condition {
	switch test := c.GetTest().(type) {
	case *capstanv1.Condition_Absent:
		return storage.Condition{Kind: storage.ConditionAbsent}
	case *capstanv1.Condition_Present:
		return storage.Condition{Kind: storage.ConditionPresent}
	case *capstanv1.Condition_Version:
		return storage.Condition{Kind: storage.ConditionVersion, Version: storage.Version{
			Index: test.Version.GetIndex(), Timestamp: hlc.Timestamp(test.Version.GetTimestamp()),
			Node: partitionNode(test.Version.GetNode()),
		}}
	}
	return storage.Condition{}
}

package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/capstan-kv/capstan/api"
	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Get answers api.KV.
func (r *router) Get(ctx context.Context, req *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := r.refuses(); err != nil {
		return nil, err
	}
	if req.GetConsistency() == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		return r.getEventual(ctx, req)
	}
	return onKey(ctx, r, hopGet, req.GetKey(), req, new(capstanv1.GetResponse),
		func(ctx context.Context, here *replica) (*capstanv1.GetResponse, error) { return here.get(ctx, req) })
}

// Put answers api.KV.
func (r *router) Put(ctx context.Context, req *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := r.refuses(); err != nil {
		return nil, err
	}
	if req.GetConsistency() == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		return r.putEventual(ctx, req)
	}
	return onKey(ctx, r, hopPut, req.GetKey(), req, new(capstanv1.PutResponse),
		func(ctx context.Context, here *replica) (*capstanv1.PutResponse, error) { return here.put(ctx, req) })
}

// Delete answers api.KV.
func (r *router) Delete(ctx context.Context, req *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := r.refuses(); err != nil {
		return nil, err
	}
	if req.GetConsistency() == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		return r.deleteEventual(ctx, req)
	}
	return onKey(ctx, r, hopDelete, req.GetKey(), req, new(capstanv1.DeleteResponse),
		func(ctx context.Context, here *replica) (*capstanv1.DeleteResponse, error) {
			return here.delete(ctx, req)
		})
}

// get reads committed state from the replica here, whichever its role: the
// state is read once it holds every write acknowledged before the read index
// was asked for, or, with a bound, before the bound began.
func (h *replica) get(ctx context.Context, req *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	past, err := h.sessions.past(req.GetSession())
	if err != nil {
		return nil, err
	}
	staleness, err := h.current(ctx, committedRead{req.GetConsistency(), req.GetMaxStaleness().AsDuration()}, past)
	if err != nil {
		return nil, err
	}
	value, found, err := h.state.GetAdmitted(req.GetKey(), api.Admit(ctx))
	if api.Refused(err) {
		return nil, err
	}
	if err != nil {
		return nil, h.unread(err)
	}
	resp := &capstanv1.GetResponse{Freshness: &capstanv1.Freshness{ServedBy: h.servedBy, Staleness: durationpb.New(staleness)}}
	applied, _ := h.state.Applied()
	if found {
		noteCommitted(past, h.partition, value.Version, applied)
	} else {
		past.Saw(h.partition, applied)
	}
	if found && !value.Tombstone {
		resp.Found, resp.Value, resp.Version = true, value.Bytes, versionMessage(value.Version)
	}
	resp.Session, err = h.sessions.token(past)
	return resp, err
}

// committedRead is how fresh a read of committed state has to be.
type committedRead struct {
	level        capstanv1.Consistency
	maxStaleness time.Duration
}

// current returns once the state here is as fresh as the read asks for, and
// holds the session's past. The staleness is an upper bound; 0 means
// linearizable.
func (h *replica) current(ctx context.Context, read committedRead, past *session.Token) (staleness time.Duration, err error) {
	if err := h.settle(ctx, past); err != nil {
		return 0, err
	}
	if read.level != capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS {
		return 0, h.fresh(ctx)
	}
	index := past.Index(h.partition)
	for {
		if staleness, err = h.group.Bounded(ctx, read.maxStaleness); err != nil {
			return 0, err
		}
		if applied, _ := h.state.Applied(); applied >= index {
			return staleness, nil
		}
		// The state is young enough, and older than what the session has seen.
		// Waiting makes it older: its age is asked for anew.
		soon, cancel := inTimeToAnswer(ctx)
		err := h.group.WaitApplied(soon, index)
		cancel()
		if err != nil {
			applied, _ := h.state.Applied()
			return 0, behind(h.partition, err, fmt.Sprintf("entry %d was seen, %s has applied %d", index, h.servedBy, applied))
		}
	}
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

func (h *replica) put(ctx context.Context, req *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	result, token, err := h.write(ctx, storage.Command{
		Kind: storage.CommandPut, Key: req.GetKey(), Value: req.GetValue(), Condition: condition(req.GetCondition()),
	}, req.GetSession())
	if err != nil {
		return nil, err
	}
	return &capstanv1.PutResponse{Version: versionMessage(result.Version), ServedBy: h.servedBy, Session: token}, nil
}

func (h *replica) delete(ctx context.Context, req *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	result, token, err := h.write(ctx, storage.Command{
		Kind: storage.CommandDelete, Key: req.GetKey(), Condition: condition(req.GetCondition()),
	}, req.GetSession())
	if err != nil {
		return nil, err
	}
	return &capstanv1.DeleteResponse{
		Version: versionMessage(result.Version), Existed: &result.Existed, ServedBy: h.servedBy, Session: token,
	}, nil
}

// write proposes c at the replica here, which refuses where it does not lead.
func (h *replica) write(ctx context.Context, c storage.Command, token string) (storage.CommandResult, string, error) {
	var none storage.CommandResult
	if err := h.room(h.group, c.Kind == storage.CommandDelete); err != nil {
		return none, "", err
	}
	past, err := h.sessions.past(token)
	if err != nil {
		return none, "", err
	}
	if err := h.settle(ctx, past); err != nil {
		return none, "", err
	}
	if err := h.sessions.room(token, past); err != nil {
		return none, "", err
	}
	c.Level, c.Timestamp, c.Node = storage.LevelLinearizable, h.clock.Now(), h.node
	command, err := storage.AppendCommand(nil, c)
	if err != nil {
		return none, "", &replication.Error{
			Reason: replication.BadOption, Outcome: replication.NotApplied, Message: "the write cannot be encoded", Err: err,
		}
	}
	answer, err := h.group.Propose(ctx, command)
	if err != nil {
		return none, "", err
	}
	result, ok := answer.(storage.CommandResult)
	if !ok {
		return none, "", fmt.Errorf("partition %d: apply answered with %T", h.partition, answer)
	}
	if !result.ConditionFailed {
		past.Saw(h.partition, result.Version.Index)
		past.Observe(result.Version.Timestamp)
		if token, err = h.sessions.token(past); err != nil {
			return none, "", untold(err)
		}
		return result, token, nil
	}
	// What the key holds was seen, too.
	applied, _ := h.state.Applied()
	if result.Current != nil {
		noteCommitted(past, h.partition, *result.Current, applied)
	} else {
		past.Saw(h.partition, applied)
	}
	failed := conditionFailed(result.Current)
	failed.Session, err = h.sessions.token(past)
	if err != nil {
		failed.Session = ""
	}
	return none, "", failed
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

package client

import (
	"context"
	"fmt"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Op is one operation of a batch.
type Op struct {
	message *capstanv1.Operation
	name    string
	key     []byte
	write   bool
	near    bool
}

// GetOp reads a key in a batch. Via and sessions mean nothing inside one: they
// are the batch's.
func GetOp(key []byte, opts ...GetOption) Op {
	var s settings
	for _, o := range opts {
		o.forGet(&s)
	}
	s.session = ""
	return Op{name: "get", key: key, near: s.near(), message: &capstanv1.Operation{Op: &capstanv1.Operation_Get{Get: s.get(key)}}}
}

// PutOp writes a key in a batch.
func PutOp(key, value []byte, opts ...WriteOption) Op {
	var s settings
	for _, o := range opts {
		o.forWrite(&s)
	}
	s.session = ""
	return Op{name: "put", key: key, write: true, near: s.near(), message: &capstanv1.Operation{Op: &capstanv1.Operation_Put{Put: s.put(key, value)}}}
}

// DeleteOp deletes a key in a batch.
func DeleteOp(key []byte, opts ...WriteOption) Op {
	var s settings
	for _, o := range opts {
		o.forWrite(&s)
	}
	s.session = ""
	return Op{name: "delete", key: key, write: true, near: s.near(), message: &capstanv1.Operation{Op: &capstanv1.Operation_Delete{Delete: s.delete(key)}}}
}

// OpResult is what became of one operation: one of the four is set.
type OpResult struct {
	Get    *GetResult
	Put    *PutResult
	Delete *DeleteResult
	Err    *Error
}

// BatchResult is the answer to a batch: Results in the order of its operations.
// They carry no session: the batch has one for all.
type BatchResult struct {
	Results []OpResult
	Session string // if one was given, see the Session option

	message *capstanv1.BatchResponse
}

// Message is the answer as it came; not to be changed.
func (r *BatchResult) Message() *capstanv1.BatchResponse { return r.message }

// Batch sends many operations at once. It is not atomic: operations on one key
// happen in order, others in any, and each succeeds or fails by itself. The
// error is that of the whole batch.
func (c *Client) Batch(ctx context.Context, ops []Op, opts ...BatchOption) (*BatchResult, error) {
	var s settings
	for _, o := range opts {
		o.forBatch(&s)
	}
	what := call{op: "batch", near: len(ops) > 0}
	request := &capstanv1.BatchRequest{Ops: make([]*capstanv1.Operation, len(ops))}
	for i, op := range ops {
		request.Ops[i] = op.message
		what.write = what.write || op.write
		what.near = what.near && op.near
	}
	what.key = c.batchKey(ops)
	return inSession(ctx, c, what, s, func(ctx context.Context, s *settings) (*BatchResult, error) {
		request.Session = s.session
		if err := fits(what, request); err != nil {
			return nil, err
		}
		return invoke(ctx, c, what, *s, func(ctx context.Context, n *node) (*BatchResult, string, error) {
			m, err := n.kv.Batch(ctx, request)
			if err != nil {
				return nil, "", err
			}
			r, err := batchResult(ops, m)
			return r, "", err
		})
	}, func(r *BatchResult) *string { return &r.Session })
}

// batchKey is a key to route a batch by, if one partition holds all of them.
func (c *Client) batchKey(ops []Op) []byte {
	r := c.ring.Load()
	if r == nil || len(ops) == 0 {
		return nil
	}
	first := partitionOf(ops[0].key, len(r.partitions))
	for _, op := range ops[1:] {
		if partitionOf(op.key, len(r.partitions)) != first {
			return nil
		}
	}
	return routable(ops[0].key)
}

func batchResult(ops []Op, m *capstanv1.BatchResponse) (*BatchResult, error) {
	if len(m.GetResults()) != len(ops) {
		return nil, fmt.Errorf("%w: %d results for %d operations", errMalformed, len(m.GetResults()), len(ops))
	}
	r := &BatchResult{Results: make([]OpResult, len(ops)), Session: m.GetSession(), message: m}
	for i, result := range m.GetResults() {
		at := &r.Results[i]
		switch {
		case result.GetError() != nil:
			at.Err = errorOfResult(ops[i].name, ops[i].write, result.GetError())
		case result.GetGet() != nil && ops[i].name == "get":
			at.Get = getResult(result.GetGet())
		case result.GetPut().GetVersion() != nil && ops[i].name == "put":
			at.Put = putResult(result.GetPut())
		case result.GetDelete().GetVersion() != nil && ops[i].name == "delete":
			at.Delete = deleteResult(result.GetDelete())
		default:
			return nil, fmt.Errorf("%w: result %d does not fit its operation", errMalformed, i)
		}
	}
	return r, nil
}

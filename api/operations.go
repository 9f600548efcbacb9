package api

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// operations is what both doors do with a decoded request: check it, then hand
// it to the backend.
type operations struct{ config Config }

func (o *operations) get(ctx context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := first(validateGet(r), offeredRead(r.GetConsistency()), offeredSession(r.GetSession())); err != nil {
		return nil, err
	}
	return o.config.KV.Get(ctx, r)
}

func (o *operations) put(ctx context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := first(validatePut(r, o.config.MaxValueSize), offeredWrite(r.GetConsistency()), offeredSession(r.GetSession())); err != nil {
		return nil, err
	}
	return o.config.KV.Put(ctx, r)
}

func (o *operations) delete(ctx context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := first(validateDelete(r), offeredWrite(r.GetConsistency()), offeredSession(r.GetSession())); err != nil {
		return nil, err
	}
	return o.config.KV.Delete(ctx, r)
}

func (o *operations) scan(ctx context.Context, r *capstanv1.ScanRequest, emit func(*capstanv1.ScanResponse) error) error {
	if err := first(validateScan(r), offeredRead(r.GetConsistency()), offeredSession(r.GetSession())); err != nil {
		return err
	}
	return o.config.KV.Scan(ctx, r, emit)
}

// What this version of the server does not offer yet is refused here, once for
// both doors, after the request has been found to be a valid one.

func offeredRead(level capstanv1.Consistency) error {
	switch level {
	case eventual:
		return ErrUnimplemented("eventual reads")
	case bounded:
		return ErrUnimplemented("bounded reads")
	}
	return nil
}

func offeredWrite(level capstanv1.Consistency) error {
	if level == eventual {
		return ErrUnimplemented("eventual writes")
	}
	return nil
}

func offeredSession(session string) error {
	if session != "" {
		return ErrUnimplemented("session tokens")
	}
	return nil
}

// batch executes operations on one key in the order given, those on different
// keys at the same time. A failed operation is a result like any other and
// does not keep later ones from running.
func (o *operations) batch(ctx context.Context, r *capstanv1.BatchRequest) (*capstanv1.BatchResponse, error) {
	if err := first(validateOps(r), offeredSession(r.GetSession())); err != nil {
		return nil, err
	}
	results := make([]*capstanv1.Result, len(r.GetOps()))
	groups := groupByKey(r.GetOps())
	next := make(chan []int, len(groups))
	for _, group := range groups {
		next <- group
	}
	close(next)
	budget := &answerBudget{left: MaxMessageSize - len(results)*resultOverhead, json: isJSONCall(ctx)}
	var workers sync.WaitGroup
	for range min(batchConcurrency, len(groups)) {
		workers.Go(func() {
			for group := range next {
				for _, i := range group {
					results[i] = o.one(ctx, r.GetOps()[i], budget)
				}
			}
		})
	}
	workers.Wait()
	return &capstanv1.BatchResponse{Results: results}, nil
}

// groupByKey gives the indexes of the operations on each key, in order.
func groupByKey(ops []*capstanv1.Operation) [][]int {
	groups := make([][]int, 0, len(ops))
	byKey := make(map[string]int, len(ops))
	for i, op := range ops {
		key := string(opKey(op))
		g, seen := byKey[key]
		if !seen {
			g = len(groups)
			byKey[key] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

func opKey(op *capstanv1.Operation) []byte {
	switch op := op.GetOp().(type) {
	case *capstanv1.Operation_Get:
		return op.Get.GetKey()
	case *capstanv1.Operation_Put:
		return op.Put.GetKey()
	case *capstanv1.Operation_Delete:
		return op.Delete.GetKey()
	}
	return nil
}

// one executes one operation of a batch.
func (o *operations) one(ctx context.Context, op *capstanv1.Operation, budget *answerBudget) (result *capstanv1.Result) {
	_, read := op.GetOp().(*capstanv1.Operation_Get)
	fail := func(err error) *capstanv1.Result {
		return failureOf(err, !read, o.config.APIAddress).result()
	}
	defer func() {
		if v := recover(); v != nil {
			result = fail(panicked(o.config, "Batch", v))
		}
	}()
	if err := validateOp(op, o.config.MaxValueSize); err != nil {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(notStarted(err))
	}
	switch op := op.GetOp().(type) {
	case *capstanv1.Operation_Get:
		got, err := o.get(ctx, op.Get)
		if err != nil {
			return fail(err)
		}
		if !budget.take(proto.Size(got)) {
			return fail(refuse(replication.ValueTooLarge, "the batch's answers together are over 4 MiB; try: this key in another batch"))
		}
		return &capstanv1.Result{Result: &capstanv1.Result_Get{Get: got}}
	case *capstanv1.Operation_Put:
		put, err := o.put(ctx, op.Put)
		if err != nil {
			return fail(err)
		}
		return &capstanv1.Result{Result: &capstanv1.Result_Put{Put: put}}
	case *capstanv1.Operation_Delete:
		deleted, err := o.delete(ctx, op.Delete)
		if err != nil {
			return fail(err)
		}
		return &capstanv1.Result{Result: &capstanv1.Result_Delete{Delete: deleted}}
	}
	return fail(badOption("operation is neither get, put nor delete"))
}

// notStarted says of an operation that its time was up before it began.
func notStarted(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return refuse(replication.Deadline, "deadline exceeded before the operation began")
	}
	f := failureOf(cause, false, nil)
	f.message = "canceled before the operation began"
	return f
}

// resultOverhead is put aside for each result of a batch, beside the value
// read: a version, an error, the names of fields in JSON.
const resultOverhead = 512

// answerBudget keeps the values of a batch below the size of one message.
type answerBudget struct {
	mu   sync.Mutex
	left int
	json bool // values travel as base64
}

func (b *answerBudget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.json {
		n += n/3 + 1
	}
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

package api

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// batch executes operations on one key in the order given, those on different
// keys at the same time. A failed operation is a result like any other and
// does not keep later ones from running.
//
// The batch is one step of its session: each operation is given the session as
// it was before the batch, or as the operation before it on the same key left
// it, and the answer's session holds what all of them saw and wrote. A batch
// without operations only merges the tokens that it is given.
func (o *operations) batch(ctx context.Context, r *capstanv1.BatchRequest) (*capstanv1.BatchResponse, error) {
	if err := validateOps(r); err != nil {
		return nil, err
	}
	session, err := o.startSession(ctx, r.GetSession())
	if err != nil {
		return nil, err
	}
	results := make([]*capstanv1.Result, len(r.GetOps()))
	groups := groupByKey(r.GetOps())
	sessions := make([]string, len(groups))
	next := make(chan int, len(groups))
	for g := range groups {
		next <- g
	}
	close(next)
	budget := &answerBudget{left: MaxMessageSize - len(results)*resultOverhead - MaxTokenSize, json: isJSONCall(ctx)}
	var workers sync.WaitGroup
	for range min(batchConcurrency, len(groups)) {
		workers.Go(func() {
			for g := range next {
				left := session
				for _, i := range groups[g] {
					results[i] = o.one(ctx, r.GetOps()[i], left, budget)
					if token := takeSession(results[i]); token != "" {
						left = token
					}
				}
				sessions[g] = left
			}
		})
	}
	workers.Wait()
	session, err = o.endSession(ctx, session, sessions)
	if err != nil {
		return nil, err
	}
	return &capstanv1.BatchResponse{Results: results, Session: session}, nil
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

// one executes one operation of a batch, as a part of session.
func (o *operations) one(ctx context.Context, op *capstanv1.Operation, session string, budget *answerBudget) (result *capstanv1.Result) {
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
		op.Get.Session = session
		got, err := o.get(ctx, op.Get)
		if err != nil {
			return fail(err)
		}
		if !budget.take(proto.Size(got) - len(got.GetSession())) {
			return fail(refuse(replication.ValueTooLarge, "the batch's answers together are over 4 MiB; try: this key in another batch"))
		}
		return &capstanv1.Result{Result: &capstanv1.Result_Get{Get: got}}
	case *capstanv1.Operation_Put:
		op.Put.Session = session
		put, err := o.put(ctx, op.Put)
		if err != nil {
			return fail(err)
		}
		return &capstanv1.Result{Result: &capstanv1.Result_Put{Put: put}}
	case *capstanv1.Operation_Delete:
		op.Delete.Session = session
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

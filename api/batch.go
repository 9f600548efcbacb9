package api

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/budget"
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
	answers, err := newAnswerBudget(ctx, len(results))
	if err != nil {
		return nil, err
	}
	groups := groupByKey(r.GetOps())
	sessions := make([]string, len(groups))
	next := make(chan int, len(groups))
	for g := range groups {
		next <- g
	}
	close(next)
	var workers sync.WaitGroup
	for range min(batchConcurrency, len(groups)) {
		workers.Go(func() {
			for g := range next {
				left := session
				for _, i := range groups[g] {
					results[i] = o.one(ctx, r.GetOps()[i], left, answers)
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
func (o *operations) one(ctx context.Context, op *capstanv1.Operation, session string, answers *answerBudget) (result *capstanv1.Result) {
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
		if err := answers.begin(); err != nil {
			return fail(err)
		}
		op.Get.Session = session
		got, err := o.get(WithAdmit(ctx, answers.admit), op.Get)
		if err != nil {
			_ = answers.end(0) // nothing always fits
			return fail(err)
		}
		if err := answers.end(proto.Size(got) - len(got.GetSession())); err != nil {
			return fail(err)
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

// resultBytes is what a result takes up beside its value, as a rule.
const resultBytes = 128

// readAhead is put aside for each read of a batch that is under way, in bytes: as
// many as run at a time fit into one message if they find no more than that.
const readAhead = MaxMessageSize / batchConcurrency

// answerBudget keeps the values of a batch below the size of one message, and within
// the node's budget for answers. A value is not read once there is no room for it.
type answerBudget struct {
	claim *budget.Claim // nil outside the door
	json  bool          // values travel as base64

	mu      sync.Mutex
	changed sync.Cond // a read has ended
	left    int       // without what is put aside
	reading int       // reads under way
	full    *failure  // why no more is read
}

// newAnswerBudget claims what a batch's results take up beside values. The error is a
// *failure: nothing was executed.
func newAnswerBudget(ctx context.Context, results int) (*answerBudget, error) {
	fixed := results*resultOverhead + MaxTokenSize
	b := &answerBudget{left: MaxMessageSize - fixed}
	b.changed.L = &b.mu
	call := callOf(ctx)
	if call == nil {
		return b, nil
	}
	b.json = call.json
	// In any case more than is free, so that there is a claim for values to grow.
	if err := call.guard.claimAnswer(max(results*resultBytes, freeAnswer+1)); err != nil {
		return nil, err
	}
	b.claim = call.guard.answer
	return b, nil
}

// begin puts room aside for one more value, after those that are being read if need
// be. The error is a *failure: a value did not fit, and no more is read.
func (b *answerBudget) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.full == nil && b.left < readAhead && b.reading > 0 {
		b.changed.Wait() // a read ends with its batch's deadline at the latest
	}
	if b.full != nil {
		return b.full
	}
	b.reading++
	b.left -= readAhead
	return nil
}

// admit says before a value is made whether there may be room for it; end takes it.
func (b *answerBudget) admit(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left+readAhead && b.full == nil {
		b.full = tooLargeTogether()
	}
	if b.full != nil {
		return b.full
	}
	return nil
}

func tooLargeTogether() *failure {
	return refuse(replication.ValueTooLarge, "the batch's answers together are over 4 MiB; try: this key in another batch")
}

// end takes room for a value of n bytes that was read. The error is a *failure.
func (b *answerBudget) end(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.changed.Broadcast()
	b.reading--
	b.left += readAhead
	if b.json {
		n += n/3 + 1
	}
	if n > b.left {
		b.full = tooLargeTogether()
		return b.full
	}
	if b.claim != nil {
		if err := b.claim.Grow(2 * int64(n)); err != nil {
			b.full = overloaded(err)
			return b.full
		}
	}
	b.left -= n
	return nil
}

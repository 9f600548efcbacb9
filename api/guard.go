package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/replication"
)

// Budgets are what all clients of a node together may take up.
type Budgets struct {
	// Requests counts requests under way, and the bytes of their bodies and of what
	// they are decoded to. An owner is one connection.
	Requests *budget.Budget
	// Answers counts the bytes of answers that clients have not taken yet. An owner is
	// one connection.
	Answers *budget.Budget
	// Streams counts RPCs that last as long as the client likes: health watches and
	// reflection. An owner is one connection.
	Streams *budget.Budget
}

// NewBudgets makes budgets for bodies and answers of so many bytes each, and for so
// many requests at a time.
func NewBudgets(bytes int64, requests int) Budgets {
	return Budgets{
		Requests: budget.New("requests", budget.Limits{
			Bytes: bytes, OwnerBytes: max(bytes/ownerShare, leastOwnerBytes), Count: requests,
			Patience: bodyPatience, Pressed: bodyPressed,
		}),
		Answers: budget.New("answers", budget.Limits{
			Bytes: bytes, OwnerBytes: max(bytes/ownerShare, leastOwnerBytes),
			Patience: answerPatience, Pressed: answerPressed,
		}),
		Streams: budget.New("streams", budget.Limits{
			Count: maxStreams, OwnerCount: maxStreamsPerConnection, Patience: streamPatience, Pressed: bodyPressed,
		}),
	}
}

// guard is one request on its way through the door: what it holds of the budgets,
// and the writer of its answer, which is broken off when the client stops to take it.
type guard struct {
	http.ResponseWriter
	controller *http.ResponseController
	budgets    *Budgets
	caller     *Caller
	start      time.Time
	http1      bool

	request, answer *budget.Claim
	refused         error // why the body was not read to its end: a *failure
	wrote           int
	unbounded       bool // the server's own write deadline is off
	body            *guardedBody
}

// enter claims a place for a request. The error is a *failure.
func (b *Budgets) enter(w http.ResponseWriter, r *http.Request, start time.Time) (*guard, error) {
	g := &guard{ResponseWriter: w, controller: http.NewResponseController(w), budgets: b, caller: callerOf(r.Context()), start: start, http1: r.ProtoMajor == 1}
	var err error
	if g.request, err = b.Requests.Claim(g.caller.requestsOwner(), 0); err != nil {
		return nil, overloaded(err)
	}
	if r.ContentLength != 0 {
		g.body = &guardedBody{ReadCloser: r.Body, guard: g}
		r.Body = g.body
	}
	return g, nil
}

// Guard lets GET and HEAD through to h, within the budgets: for pages that are served
// beside the API. They may last as long as the client takes what is written.
func (b *Budgets) Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allow(w, r, http.MethodGet, http.MethodHead) {
			return
		}
		g, err := b.enter(w, r, time.Now())
		if err != nil {
			writeFailure(w, failureOf(err, false, nil))
			return
		}
		defer g.leave()
		g.unbound()
		h.ServeHTTP(g, r)
	})
}

// leave gives back what the request holds.
func (g *guard) leave() {
	if g.body != nil && !g.body.ended && g.http1 {
		// Unread: the server reads a little of it before the next request, and must
		// not wait for that.
		_ = g.controller.SetReadDeadline(time.Now().Add(drainTimeout)) // an in-memory writer has none
	}
	g.answer.Close()
	g.request.Close()
	if g.unbounded {
		_ = g.controller.SetWriteDeadline(time.Now().Add(writeTimeout)) // for what is still buffered
	}
}

// overloaded is the refusal of what does not fit into a budget.
func overloaded(err error) *failure {
	return refuse(replication.Overloaded, err.Error()+"; try: again after a pause")
}

// unbound lets the budget alone decide how long the client may take.
func (g *guard) unbound() {
	if !g.unbounded {
		g.unbounded = true
		_ = g.controller.SetWriteDeadline(time.Time{}) // an in-memory writer has none
	}
}

// lasts says that the request may take until then before it is answered.
func (g *guard) lasts(until time.Time) {
	if !g.unbounded && until.Sub(g.start) > writeTimeout/2 {
		_ = g.controller.SetWriteDeadline(until.Add(writeTimeout)) // an in-memory writer has none
	}
}

// claimAnswer claims room for an answer that is about to be written as a whole. The
// error is a *failure.
func (g *guard) claimAnswer(bytes int) error {
	if bytes <= freeAnswer || g.answer != nil {
		return nil
	}
	var err error
	if g.answer, err = g.budgets.Answers.Claim(g.caller.answersOwner(), int64(bytes)); err != nil {
		return overloaded(err)
	}
	g.wait(g.answer)
	return nil
}

type admitKey struct{}

// WithAdmit has [Admit] ask admit.
func WithAdmit(ctx context.Context, admit func(bytes int) error) context.Context {
	return context.WithValue(ctx, admitKey{}, admit)
}

// Admit is what a backend asks before it makes a value of so many bytes for an answer:
// where many read large values at a time, there may be no room for all of them. The
// error is to be returned as it is; see [Refused]. Nil: nobody has to be asked.
func Admit(ctx context.Context) func(bytes int) error {
	admit, _ := ctx.Value(admitKey{}).(func(bytes int) error)
	return admit
}

// Refused reports whether an error is one of [Admit].
func Refused(err error) bool {
	var f *failure
	var e *replication.Error
	return errors.As(err, &f) || errors.As(err, &e)
}

// wait has the answer broken off when the client stops to take it.
func (g *guard) wait(answer *budget.Claim) {
	g.unbound()
	answer.Wait(func() { _ = g.controller.SetWriteDeadline(time.Unix(1, 0)) })
}

// Write writes in pieces, so that each that has gone out is progress. What was not
// claimed as a whole is claimed while it is written.
func (g *guard) Write(p []byte) (int, error) {
	g.wrote += len(p)
	if g.answer == nil && g.wrote <= freeAnswer {
		return g.ResponseWriter.Write(p)
	}
	answer := g.answer
	if answer == nil {
		bytes := int64(len(p))
		if bytes <= freePiece {
			bytes = 0 // the end of a stream, which has to be told
		}
		var err error
		if answer, err = g.budgets.Answers.Claim(g.caller.answersOwner(), bytes); err != nil {
			return 0, overloaded(err)
		}
		defer answer.Close()
		g.wait(answer)
	}
	written := 0
	for {
		piece := p[written:min(written+answerPiece, len(p))]
		n, err := g.ResponseWriter.Write(piece)
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
		answer.Moved()
	}
}

// received says that the request has been read, to its end or as far as it is wanted.
func (g *guard) received() {
	if g.body != nil && g.body.waiting && !g.body.ended {
		g.body.waiting = false
		g.request.Resume()
	}
}

// Flush implements [http.Flusher].
func (g *guard) Flush() { _ = g.FlushError() }

// FlushError waits until the client has room for what is buffered.
func (g *guard) FlushError() error {
	answer, err := g.budgets.Answers.Claim(g.caller.answersOwner(), 0)
	if err != nil {
		return overloaded(err)
	}
	defer answer.Close()
	g.wait(answer)
	return g.controller.Flush()
}

// Unwrap is for [http.ResponseController].
func (g *guard) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// guardedBody claims what is read of a body, and has it broken off when the client
// stops to send.
type guardedBody struct {
	io.ReadCloser
	guard *guard
	// lingers: the body is a stream that lasts as long as the client likes.
	lingers bool

	read     int
	progress int  // bytes that the claim was not told of yet
	waiting  bool // the claim was told that the client has to send
	ended    bool
}

// Read implements [io.Reader]. A refusal is a *failure.
func (b *guardedBody) Read(p []byte) (int, error) {
	g := b.guard
	if g.refused != nil {
		return 0, g.refused
	}
	if !b.waiting && !b.lingers {
		b.waiting = true
		g.request.Wait(func() { _ = g.controller.SetReadDeadline(time.Unix(1, 0)) })
	}
	n, err := b.ReadCloser.Read(p)
	b.read += n
	if b.progress += n; b.progress >= freeBody {
		// Twice: what a body is read into grows by doubling, and is decoded.
		if full := g.request.Grow(2 * int64(b.progress)); full != nil && !g.request.Ended() {
			g.refused = overloaded(full)
			return 0, g.refused
		}
		b.progress = 0
	}
	if time.Since(g.start) > writeTimeout/2 {
		g.unbound() // a slow upload; the budget watches over it
	}
	if err != nil {
		b.ended = errors.Is(err, io.EOF)
		g.request.Resume()
		if g.request.Ended() {
			g.refused = refuse(replication.Deadline, fmt.Sprintf("the body stood still after %d bytes, nothing was written; try: again", b.read))
			return n, g.refused
		}
	}
	return n, err
}

// linger lets a body stay open without anything to read.
func (g *guard) linger() {
	if g.body != nil {
		g.body.lingers = true
	}
	g.unbound()
}

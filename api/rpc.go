package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
	"github.com/capstan-kv/capstan/replication"
)

// serveRPC lets the RPC runtime h serve r, and sees to what the runtime leaves
// out: a bound on the body and on the time to send it, an ErrorInfo on refusals
// that it makes before an interceptor runs, and the observer.
func (d *door) serveRPC(w *guard, r *http.Request, h http.Handler, service, method string) {
	call := &rpcCall{ResponseWriter: w, guard: w, level: levelNone, code: codeOK}
	call.timed, call.rpc = isTimed(service), service+"/"+method
	switch {
	case !call.timed:
		stream, err := w.budgets.Streams.Claim(w.caller.streamsOwner(), 0)
		if err != nil {
			d.refuse(w, r, overloaded(err))
			return
		}
		defer stream.Close()
		ctx, end := context.WithCancel(r.Context())
		defer end()
		r = r.WithContext(ctx)
		w.linger()
		stream.Wait(func() {
			end()
			_ = w.controller.SetReadDeadline(time.Unix(1, 0)) // an in-memory writer has none
		})
		r.Body = http.MaxBytesReader(w.ResponseWriter, r.Body, maxStreamBody)
	case r.Method == http.MethodPost && call.rpc != pipelineProcedure:
		r.Body = http.MaxBytesReader(w.ResponseWriter, r.Body, MaxMessageSize+wireOverhead) // it has to know the server's own writer
	}
	h.ServeHTTP(call, r.WithContext(context.WithValue(r.Context(), rpcCallKey{}, call)))
	if !call.entered {
		f := call.refusal()
		call.code = f.code.String()
		for name := range w.Header() {
			if name != "Allow" && name != "Accept-Post" {
				w.Header().Del(name)
			}
		}
		if f.status == http.StatusMethodNotAllowed || f.status == http.StatusUnsupportedMediaType || f.status == http.StatusHTTPVersionNotSupported {
			if f.status == http.StatusHTTPVersionNotSupported {
				w.Header().Set("Connection", "close") // the client may wait for more than HTTP/1.1 can do
			}
			writeFailure(w, f)
		} else {
			_ = d.errors.Write(w, r, f.connectError()) // the client is gone
		}
	}
	if d.config.Observer != nil {
		d.config.Observer.Observe(methodLabel(service, method), call.level, call.code, time.Since(w.start))
	}
}

const pipelineProcedure = capstanv1connect.KVServiceName + "/Pipeline"

// isTimed tells calls with a deadline from those that last as long as the
// client likes (health watches, reflection).
func isTimed(service string) bool {
	switch service {
	case capstanv1connect.KVServiceName, capstanv1connect.ClusterServiceName, capstanv1connect.ChaosServiceName:
		return true
	}
	return false
}

// rpcCall is one RPC on its way through the runtime. Until the call has entered
// the interceptor, whatever the runtime writes is a refusal of its own: it is
// kept back, and written again with an ErrorInfo.
type rpcCall struct {
	http.ResponseWriter
	guard       *guard
	entered     bool
	timed       bool
	json        bool   // the messages are JSON
	rpc         string // service and method
	level, code string // labels for the observer
	status      int
	refused     bytes.Buffer
}

type rpcCallKey struct{}

func callOf(ctx context.Context) *rpcCall {
	call, _ := ctx.Value(rpcCallKey{}).(*rpcCall)
	return call
}

// maxRefusal bounds what is kept of a refusal: the runtime's are short.
const maxRefusal = 16 << 10

func (c *rpcCall) WriteHeader(status int) {
	if !c.entered {
		c.status = status
		return
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *rpcCall) Write(p []byte) (int, error) {
	if !c.entered {
		if c.refused.Len()+len(p) <= maxRefusal {
			c.refused.Write(p)
		}
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher], which the runtime looks for.
func (c *rpcCall) Flush() {
	if c.entered {
		c.guard.Flush() // a client that is gone is found out by the next write
	}
}

func (c *rpcCall) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// received marks that the request is read and the handler takes over.
func (c *rpcCall) received() {
	c.entered = true
	c.guard.received()
}

// refusal reads what the runtime answered on its own.
func (c *rpcCall) refusal() *failure {
	if c.guard.refused != nil {
		return failureOf(c.guard.refused, false, nil)
	}
	switch c.status {
	case http.StatusMethodNotAllowed:
		return &failure{code: connect.CodeUnimplemented, status: c.status, message: "method not allowed on an rpc path; try: POST", info: notApplied()}
	case http.StatusUnsupportedMediaType:
		return &failure{
			code: connect.CodeInvalidArgument, status: c.status, info: notApplied(),
			message: "content type is none of this rpc; try: Content-Type: application/json, application/connect+json for Scan and ListConflicts, or /kv/ for plain http",
		}
	case http.StatusHTTPVersionNotSupported:
		return &failure{code: connect.CodeUnimplemented, status: c.status, message: "this rpc needs http/2; try: Batch", info: notApplied()}
	}
	code, message := connect.CodeUnknown, "request refused"
	if status, text, ok := grpcStatus(c.Header()); ok {
		code, message = status, text
	} else {
		body := c.refused.Bytes()
		if len(body) > 5 && body[0] == connectEndOfStream {
			body = body[5:]
		}
		var answer struct {
			Code, Message string
			Error         struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &answer); err == nil {
			if answer.Code == "" {
				answer.Code, answer.Message = answer.Error.Code, answer.Error.Message
			}
			if err := code.UnmarshalText([]byte(answer.Code)); err == nil {
				message = answer.Message
			}
		} else if status, text, ok := grpcWebStatus(body); ok {
			code, message = status, text
		} else if c.status == http.StatusNotFound {
			return failureOf(ErrUnimplemented(c.rpc), false, nil)
		}
	}
	// Nothing has been handed to a backend yet, whatever the method.
	return runtimeFailure(connect.NewError(code, errors.New(tidy(message))), false)
}

// connectEndOfStream flags the last envelope of a Connect stream.
const connectEndOfStream = 2

func notApplied() *capstanv1.ErrorInfo {
	return &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_BAD_OPTION, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED}
}

// grpcStatus finds a status among trailers, or among headers where those
// stand for trailers.
func grpcStatus(h http.Header) (connect.Code, string, bool) {
	for _, prefix := range []string{"", http.TrailerPrefix} {
		// Names are compared without case: trailers are not always canonical.
		var status, message string
		for name, values := range h {
			switch strings.ToLower(name) {
			case strings.ToLower(prefix) + "grpc-status":
				status = values[0]
			case strings.ToLower(prefix) + "grpc-message":
				message = percentDecodeLoose(values[0])
			}
		}
		if n, err := strconv.ParseUint(status, 10, 32); err == nil && n != 0 {
			return connect.Code(n), message, true
		}
	}
	return 0, "", false
}

// grpcWebStatus finds a status in the trailers that gRPC-Web sends as a body.
func grpcWebStatus(body []byte) (connect.Code, string, bool) {
	const trailers = 0x80
	if len(body) < 5 || body[0]&trailers == 0 {
		return 0, "", false
	}
	h := http.Header{}
	for line := range strings.SplitSeq(string(body[5:]), "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.Set(name, strings.TrimSpace(value))
		}
	}
	return grpcStatus(h)
}

func percentDecodeLoose(s string) string {
	if b, err := percentDecode(s); err == nil {
		return string(b)
	}
	return s
}

// tidy puts the runtime's messages into the words of ours.
func tidy(message string) string {
	message = strings.ReplaceAll(message, "\u00a0", " ") // protobuf puts them in so that nobody compares texts
	for _, prefix := range []string{"unmarshal message: ", "proto: "} {
		message = strings.TrimPrefix(message, prefix)
	}
	return message
}

// edge is the interceptor of every RPC: the deadline, errors with ErrorInfo,
// panics, and the bound on an answer's size.
type edge struct{ config Config }

var _ connect.Interceptor = (*edge)(nil)

// WrapUnary implements [connect.Interceptor].
func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		call := callOf(ctx)
		call.received()
		call.json = isJSON(req)
		write := isWrite(req.Spec())
		defer func() {
			if v := recover(); v != nil {
				err = e.recovered(call, v)
			}
			if err != nil {
				res, err = nil, e.leave(call, err, write)
			}
		}()
		if m, ok := req.Any().(interface {
			GetConsistency() capstanv1.Consistency
		}); ok {
			call.level = levelLabel(m.GetConsistency())
		}
		if call.timed {
			var extra time.Duration
			if await, ok := req.Any().(*capstanv1.AwaitWriteRequest); ok {
				extra = min(max(await.GetWait().AsDuration(), 0), MaxAwait)
			}
			var cancel context.CancelFunc
			ctx, cancel = withDeadline(ctx, extra)
			defer cancel()
			if deadline, ok := ctx.Deadline(); ok {
				call.guard.lasts(deadline)
			}
		}
		res, err = next(ctx, req)
		if err == nil {
			err = call.claimAnswer(res, write)
		}
		return res, err
	}
}

// WrapStreamingHandler implements [connect.Interceptor].
func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		call := callOf(ctx)
		call.entered = true // the body is watched until the request has been read
		call.guard.unbound()
		defer func() {
			if v := recover(); v != nil {
				err = e.recovered(call, v)
			}
			if err != nil {
				err = e.leave(call, err, isWrite(conn.Spec()))
			}
		}()
		if _, limited := ctx.Deadline(); call.timed && !limited {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
			defer cancel()
		}
		return next(ctx, conn)
	}
}

// WrapStreamingClient implements [connect.Interceptor].
func (*edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (e *edge) leave(call *rpcCall, err error, write bool) error {
	if call.guard.refused != nil {
		err = call.guard.refused // the runtime has made something else of it
	}
	f := failureOf(err, write, e.config.APIAddress)
	f.message = tidy(f.message)
	call.code = f.code.String()
	return f.connectError()
}

// isAbort reports whether a panic only means to break off the answer.
func isAbort(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

func (e *edge) recovered(call *rpcCall, v any) error {
	if isAbort(v) {
		panic(v)
	}
	return panicked(e.config, call.rpc, v)
}

// panicked reports a panic and gives the error to answer with.
func panicked(c Config, method string, v any) error {
	if c.Panicked != nil {
		c.Panicked(method, v, debug.Stack())
	}
	return errors.New("internal error: the server's log says more")
}

// isWrite tells RPCs that change something: an error of theirs that says
// nothing about the outcome leaves it unknown.
func isWrite(s connect.Spec) bool {
	return s.IdempotencyLevel != connect.IdempotencyNoSideEffects && !isStreamRead(s.Procedure)
}

// isStreamRead tells the reads that are not marked as free of side effects
// in the protocol, which is for GET requests only.
func isStreamRead(procedure string) bool {
	switch procedure {
	case capstanv1connect.KVServiceScanProcedure, capstanv1connect.KVServiceListConflictsProcedure, capstanv1connect.KVServiceAwaitWriteProcedure:
		return true
	}
	return false
}

// withDeadline gives a request that came without a deadline the default one,
// and cuts the longest short.
func withDeadline(ctx context.Context, extra time.Duration) (context.Context, context.CancelFunc) {
	if _, limited := ctx.Deadline(); limited {
		return context.WithTimeout(ctx, MaxTimeout)
	}
	return context.WithTimeout(ctx, DefaultTimeout+extra)
}

// claimAnswer refuses an answer that is over the limit, in place of the runtime,
// which would do so without an ErrorInfo, and claims room for it. JSON is measured
// where it could be over although the message itself is not: it is at most jsonGrowth
// as large.
func (c *rpcCall) claimAnswer(res connect.AnyResponse, write bool) error {
	const jsonGrowth = 8
	m, ok := res.Any().(proto.Message)
	if !ok {
		return nil
	}
	size := proto.Size(m)
	if size > MaxMessageSize/jsonGrowth && size <= MaxMessageSize && c.json {
		text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
		if err == nil {
			size = len(text)
		}
	}
	var f *failure
	switch {
	case size > MaxMessageSize:
		f = refuse(replication.ValueTooLarge, "answer is over 4 MiB; try: fewer operations in one message, or binary encoding instead of json")
	default:
		// Twice: the message, and what it is encoded to.
		if err := c.guard.claimAnswer(2 * size); !errors.As(err, &f) {
			return nil
		}
	}
	if write {
		f.code, f.info.Outcome = connect.CodeInternal, capstanv1.Outcome_OUTCOME_UNKNOWN // done, but the answer can not be told
	}
	return f
}

func isJSON(req connect.AnyRequest) bool {
	return strings.Contains(req.Header().Get("Content-Type"), "json") || strings.Contains(req.Peer().Query.Get("encoding"), "json")
}

const (
	codeOK    = "ok"
	levelNone = "none"
)

func levelLabel(c capstanv1.Consistency) string {
	switch c {
	case capstanv1.Consistency_CONSISTENCY_UNSPECIFIED, capstanv1.Consistency_CONSISTENCY_LINEARIZABLE:
		return "linearizable"
	case capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS:
		return "bounded"
	case capstanv1.Consistency_CONSISTENCY_EVENTUAL:
		return "eventual"
	}
	return levelNone
}

// methodLabel keeps the label's values a small set, whatever is sent.
func methodLabel(service, method string) string {
	if known[service+"/"+method] {
		return method
	}
	return "other"
}

// known holds the methods of our own services, as service/method.
var known = func() map[string]bool {
	all := map[string]bool{}
	for _, file := range []protoreflect.FileDescriptor{capstanv1.File_capstan_v1_kv_proto, capstanv1.File_capstan_v1_cluster_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all[string(service.FullName())+"/"+string(service.Methods().Get(j).Name())] = true
			}
		}
	}
	return all
}()

package api

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// mapping is one row of the table: how a reason looks on the wire.
type mapping struct {
	code   connect.Code
	status int // of the plain door
}

// reasons is the one table from reasons to codes. Two rules bend a row by its
// outcome, see codeOf and statusOf: "unavailable" and 503 always mean not
// applied, "aborted" and 504 that the outcome is unknown.
var reasons = map[replication.Reason]mapping{
	replication.BadKey:          {connect.CodeInvalidArgument, http.StatusBadRequest},
	replication.ValueTooLarge:   {connect.CodeInvalidArgument, http.StatusRequestEntityTooLarge},
	replication.BadOption:       {connect.CodeInvalidArgument, http.StatusBadRequest},
	replication.BadToken:        {connect.CodeInvalidArgument, http.StatusBadRequest},
	replication.ConditionFailed: {connect.CodeFailedPrecondition, http.StatusPreconditionFailed},
	replication.NoQuorum:        {connect.CodeUnavailable, http.StatusServiceUnavailable},
	replication.NoReplica:       {connect.CodeUnavailable, http.StatusServiceUnavailable},
	replication.TooStale:        {connect.CodeUnavailable, http.StatusServiceUnavailable},
	replication.SessionBehind:   {connect.CodeUnavailable, http.StatusServiceUnavailable},
	replication.TooFewAcks:      {connect.CodeAborted, http.StatusGatewayTimeout},
	replication.Deadline:        {connect.CodeDeadlineExceeded, http.StatusGatewayTimeout},
	replication.LeaderChanged:   {connect.CodeAborted, http.StatusGatewayTimeout},
	replication.Overloaded:      {connect.CodeResourceExhausted, http.StatusTooManyRequests},
	replication.DiskFull:        {connect.CodeResourceExhausted, http.StatusTooManyRequests},
	replication.Stopping:        {connect.CodeUnavailable, http.StatusServiceUnavailable},
}

// failure is an error on its way out: everything that either door tells.
type failure struct {
	code    connect.Code
	status  int
	message string
	info    *capstanv1.ErrorInfo
	cause   error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.cause }

// connectError is f as the RPC runtime sends it.
func (f *failure) connectError() *connect.Error {
	e := connect.NewError(f.code, errors.New(f.message))
	if detail, err := connect.NewErrorDetail(f.info); err == nil {
		e.AddDetail(detail)
	}
	return e
}

// result is f as one operation's result in a batch.
func (f *failure) result() *capstanv1.Result {
	return &capstanv1.Result{Result: &capstanv1.Result_Error{Error: &capstanv1.Error{
		Code: f.code.String(), Message: f.message, Info: f.info,
	}}}
}

// refuse makes a definite failure out of the door's own judgement.
func refuse(reason replication.Reason, message string) *failure {
	m := reasons[reason]
	return &failure{code: m.code, status: m.status, message: message, info: &capstanv1.ErrorInfo{
		Reason: capstanv1.Reason(reason), Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED,
	}}
}

// unimplemented is the error of something this server does not offer.
type unimplemented struct{ what string }

func (u unimplemented) Error() string { return u.what + ": not offered by this version of the server" }

// ErrUnimplemented says that the server does not offer what (in the words of
// a user: "eventual writes"). Clients get code unimplemented, not applied.
func ErrUnimplemented(what string) error { return unimplemented{what} }

// failureOf says how err looks on the wire. A write whose error says nothing
// about its outcome may have happened; a read has no outcome to be unsure of.
// address gives a node's API address and may be nil.
func failureOf(err error, write bool, address func(partition.NodeID) string) *failure {
	var (
		done  *failure
		op    *replication.Error
		never unimplemented
		wire  *connect.Error
	)
	switch {
	case errors.As(err, &done):
		return done
	case errors.As(err, &op):
		return operationFailure(op, write, address)
	case errors.As(err, &never):
		return &failure{
			code: connect.CodeUnimplemented, status: http.StatusNotImplemented, message: never.Error(), cause: err,
			info: &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED},
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{
			code: connect.CodeDeadlineExceeded, status: http.StatusGatewayTimeout, message: "deadline exceeded before the operation was done", cause: err,
			info: &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_DEADLINE, Outcome: silentOutcome(write)},
		}
	case errors.Is(err, context.Canceled):
		return &failure{
			code: connect.CodeCanceled, status: statusClientClosedRequest, message: "canceled by the client", cause: err,
			info: &capstanv1.ErrorInfo{Outcome: silentOutcome(write)},
		}
	case errors.As(err, &wire):
		return runtimeFailure(wire, write)
	}
	return &failure{
		code: connect.CodeInternal, status: http.StatusInternalServerError, message: err.Error(), cause: err,
		info: &capstanv1.ErrorInfo{Outcome: silentOutcome(write)},
	}
}

// statusClientClosedRequest is what nginx calls a client that went away; the
// client does not see it, metrics do.
const statusClientClosedRequest = 499

func silentOutcome(write bool) capstanv1.Outcome {
	if write {
		return capstanv1.Outcome_OUTCOME_UNKNOWN
	}
	return capstanv1.Outcome_OUTCOME_NOT_APPLIED
}

func operationFailure(e *replication.Error, write bool, address func(partition.NodeID) string) *failure {
	info := &capstanv1.ErrorInfo{
		Reason:    capstanv1.Reason(e.Reason),
		Outcome:   silentOutcome(write),
		Current:   protoVersion(e.Current),
		Reachable: count(e.Reachable),
		Needed:    count(e.Needed),
		Receipt:   e.Receipt,
		Session:   e.Session,
	}
	switch e.Outcome {
	case replication.NotApplied:
		info.Outcome = capstanv1.Outcome_OUTCOME_NOT_APPLIED
	case replication.Unknown:
		info.Outcome = capstanv1.Outcome_OUTCOME_UNKNOWN
	}
	if e.Leader != "" && address != nil {
		info.Leader = address(e.Leader)
	}
	message := e.Error()
	if e.Try != "" {
		message += "; try: " + e.Try
	}
	m, known := reasons[e.Reason]
	if !known {
		m = mapping{connect.CodeInternal, http.StatusInternalServerError}
		info.Reason = capstanv1.Reason_REASON_UNSPECIFIED
	}
	m = m.bend(info.Outcome)
	return &failure{code: m.code, status: m.status, message: message, info: info, cause: e}
}

// bend keeps the promise that "unavailable" and 503 mean not applied, and says
// "unavailable" where an operation that is usually left unknown was not.
func (m mapping) bend(o capstanv1.Outcome) mapping {
	unknown := o != capstanv1.Outcome_OUTCOME_NOT_APPLIED
	switch {
	case m.code == connect.CodeUnavailable && unknown:
		return mapping{connect.CodeAborted, http.StatusGatewayTimeout}
	case m.code == connect.CodeAborted && !unknown:
		return mapping{connect.CodeUnavailable, http.StatusServiceUnavailable}
	}
	return m
}

// runtimeFailure gives an ErrorInfo to an error of the RPC runtime. It makes
// these while it decodes a request, before any backend has seen it, or while
// it sends an answer.
func runtimeFailure(e *connect.Error, write bool) *failure {
	f := &failure{code: e.Code(), message: e.Message(), cause: e, info: &capstanv1.ErrorInfo{
		Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED,
	}}
	switch e.Code() {
	case connect.CodeInvalidArgument:
		f.info.Reason = capstanv1.Reason_REASON_BAD_OPTION
	case connect.CodeResourceExhausted:
		f.info.Reason = capstanv1.Reason_REASON_VALUE_TOO_LARGE
		f.message = tooLargeMessage
	case connect.CodeUnimplemented:
	case connect.CodeDeadlineExceeded:
		f.info.Reason = capstanv1.Reason_REASON_DEADLINE
	default:
		f.info.Outcome = silentOutcome(write)
	}
	for _, detail := range e.Details() {
		if value, err := detail.Value(); err == nil {
			if info, ok := value.(*capstanv1.ErrorInfo); ok {
				f.info = info
			}
		}
	}
	f.status = statusOfCode(f.code)
	return f
}

const tooLargeMessage = "message is over 4 MiB (after decompression); try: fewer or smaller operations in one message"

// statusOfCode is the HTTP status for a code that came without a reason.
func statusOfCode(c connect.Code) int {
	switch c {
	case connect.CodeInvalidArgument:
		return http.StatusBadRequest
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	case connect.CodeUnimplemented:
		return http.StatusNotImplemented
	case connect.CodeDeadlineExceeded, connect.CodeAborted:
		return http.StatusGatewayTimeout
	case connect.CodeCanceled:
		return statusClientClosedRequest
	}
	return http.StatusInternalServerError
}

func count(n int) uint32 {
	if n < 0 {
		return 0
	}
	return uint32(n)
}

func protoVersion(v *storage.Version) *capstanv1.Version {
	if v == nil {
		return nil
	}
	return &capstanv1.Version{Index: v.Index, Timestamp: uint64(v.Timestamp), Node: string(v.Node)}
}

func versionText(v *capstanv1.Version) string {
	return storage.Version{Index: v.GetIndex(), Timestamp: hlcTimestamp(v), Node: partition.NodeID(v.GetNode())}.String()
}

func hlcTimestamp(v *capstanv1.Version) hlc.Timestamp { return hlc.Timestamp(v.GetTimestamp()) }

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Sentinels for errors.Is. Each but ErrClosed and ErrIncomplete stands for a
// reason that the cluster gives.
var (
	ErrConditionFailed error = reasonError(capstanv1.Reason_REASON_CONDITION_FAILED)
	ErrNoQuorum        error = reasonError(capstanv1.Reason_REASON_NO_QUORUM)
	ErrNoReplica       error = reasonError(capstanv1.Reason_REASON_NO_REPLICA)
	ErrTooStale        error = reasonError(capstanv1.Reason_REASON_TOO_STALE)
	ErrSessionBehind   error = reasonError(capstanv1.Reason_REASON_SESSION_BEHIND)
	ErrTooFewAcks      error = reasonError(capstanv1.Reason_REASON_TOO_FEW_ACKS)
	ErrLeaderChanged   error = reasonError(capstanv1.Reason_REASON_LEADER_CHANGED)
	ErrBadToken        error = reasonError(capstanv1.Reason_REASON_BAD_TOKEN)
	ErrDiskFull        error = reasonError(capstanv1.Reason_REASON_DISK_FULL)
	ErrOverloaded      error = reasonError(capstanv1.Reason_REASON_OVERLOADED)
	// ErrClosed: the client was closed before the call began.
	ErrClosed = errors.New("client is closed")
	// ErrIncomplete: a scan or a list broke off. What it gave until then is true,
	// but more may follow.
	ErrIncomplete = errors.New("the scan is incomplete")
	// errMalformed: the answer breaks the protocol.
	errMalformed = errors.New("malformed answer")
)

type reasonError capstanv1.Reason

func (r reasonError) Error() string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(capstanv1.Reason(r).String(), "REASON_"), "_", " "))
}

// Error is the one error type of calls.
type Error struct {
	Op      string // "get", "put", ...
	Code    connect.Code
	Reason  capstanv1.Reason
	Outcome capstanv1.Outcome
	// Message says what went wrong; Try what may be done about it, if the
	// cluster said so.
	Message, Try string
	// Leader is the API address that the cluster would ask, if it said so.
	Leader string
	// Current is the version that failed a condition; nil if the key is absent.
	Current *Version
	// Reachable and Needed count replicas, where counting was the reason.
	Reachable, Needed uint32
	// Receipt asks the fate of an eventual write that fell short of acks. Session
	// is the token to go on with after the failure, if the call was given one.
	Receipt, Session string
	// Endpoint is the URL that was asked last, Attempts how often the call was
	// sent.
	Endpoint string
	Attempts int
	// Info is the cluster's own detail; nil if the error came without one.
	Info *capstanv1.ErrorInfo
	// Err is the cause.
	Err error

	unsent bool // no connection came about: nothing left this machine
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinels of reasons.
func (e *Error) Is(target error) bool {
	r, ok := target.(reasonError)
	return ok && e.Reason == capstanv1.Reason(r)
}

// IsNotApplied reports whether err says for certain that the call had no effect
// and never will have: a retry is safe.
func IsNotApplied(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Outcome == capstanv1.Outcome_OUTCOME_NOT_APPLIED
}

// IsOutcomeUnknown reports whether the call may have taken effect, or may yet.
func IsOutcomeUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Outcome != capstanv1.Outcome_OUTCOME_NOT_APPLIED
}

// tryMark stands between what went wrong and what to do about it in the
// cluster's messages.
const tryMark = "; try: "

func splitTry(message string) (what, try string) {
	if i := strings.LastIndex(message, tryMark); i >= 0 {
		return message[:i], message[i+len(tryMark):]
	}
	return message, ""
}

// errorOf says what a failed attempt means. A read has no effect, so it is
// never of unknown outcome; a write is, unless the cluster says otherwise or
// nothing was sent.
func errorOf(c call, err error) *Error {
	e := &Error{Op: c.op, Code: connect.CodeOf(err), Message: err.Error(), Err: err}
	var ce *connect.Error
	switch {
	case errors.As(err, &ce):
		e.Message = ce.Message()
		for _, d := range ce.Details() {
			if m, derr := d.Value(); derr == nil {
				if info, ok := m.(*capstanv1.ErrorInfo); ok {
					e.fill(info)
					break
				}
			}
		}
	case errors.Is(err, errMalformed):
		e.Code = connect.CodeInternal
	case errors.Is(err, ErrIncomplete):
		e.Code = connect.CodeUnavailable
	}
	e.Message, e.Try = splitTry(e.Message)
	e.unsent = dialFailed(err)
	if !c.write || e.unsent {
		e.Outcome = capstanv1.Outcome_OUTCOME_NOT_APPLIED
	} else if e.Outcome != capstanv1.Outcome_OUTCOME_NOT_APPLIED {
		e.Outcome = capstanv1.Outcome_OUTCOME_UNKNOWN
	}
	return e
}

func (e *Error) fill(info *capstanv1.ErrorInfo) {
	e.Info, e.Reason, e.Outcome, e.Leader = info, info.GetReason(), info.GetOutcome(), info.GetLeader()
	e.Reachable, e.Needed = info.GetReachable(), info.GetNeeded()
	e.Receipt, e.Session = info.GetReceipt(), info.GetSession()
	if e.Outcome == capstanv1.Outcome_OUTCOME_UNSPECIFIED && e.Code == connect.CodeUnavailable {
		// By contract: unavailable with a detail is a definite failure.
		e.Outcome = capstanv1.Outcome_OUTCOME_NOT_APPLIED
	}
	if info.GetCurrent() != nil {
		v := versionOf(info.GetCurrent())
		e.Current = &v
	}
}

// errorOfResult reads the error of one operation inside a batch.
func errorOfResult(op string, write bool, m *capstanv1.Error) *Error {
	e := &Error{Op: op, Code: connect.CodeUnknown}
	var code connect.Code
	if code.UnmarshalText([]byte(m.GetCode())) == nil {
		e.Code = code
	}
	e.Message, e.Try = splitTry(m.GetMessage())
	if m.GetInfo() != nil {
		e.fill(m.GetInfo())
	}
	if !write {
		e.Outcome = capstanv1.Outcome_OUTCOME_NOT_APPLIED
	} else if e.Outcome != capstanv1.Outcome_OUTCOME_NOT_APPLIED {
		e.Outcome = capstanv1.Outcome_OUTCOME_UNKNOWN
	}
	return e
}

// refusal is an error made here, before anything was sent.
func refusal(c call, code connect.Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Op: c.op, Code: code, Message: err.Error(), Err: err, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED}
}

// dialError marks what the client's own dial function returned.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// dialFailed reports whether there was never a connection to send on. net/http
// sends a POST again by itself only if the server cannot have processed it, so
// a dial error is always the error of a request that had no effect.
func dialFailed(err error) bool {
	var own dialError
	if errors.As(err, &own) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// retryable decides whether another attempt may follow e. alive says that the
// caller's own context still is.
func retryable(c call, e *Error, alive bool) bool {
	var broken brokenStream
	if !alive || c.via || errors.As(e.Err, &broken) {
		return false
	}
	if e.unsent {
		return true
	}
	if e.Info != nil && e.Outcome == capstanv1.Outcome_OUTCOME_NOT_APPLIED {
		switch e.Code {
		case connect.CodeUnavailable, connect.CodeAborted:
			return true
		case connect.CodeResourceExhausted:
			return e.Reason == capstanv1.Reason_REASON_OVERLOADED
		case connect.CodeDeadlineExceeded, connect.CodeCanceled:
			// A read whose attempt had less time than the whole call.
			return !c.write
		}
		return false
	}
	if c.write {
		return false
	}
	switch e.Code {
	case connect.CodeUnavailable, connect.CodeAborted, connect.CodeUnknown, connect.CodeInternal,
		connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return true
	}
	return false
}

// contextError is the failure of a call whose context ended before anything
// was sent.
func contextError(ctx context.Context, c call) *Error {
	code := connect.CodeCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = connect.CodeDeadlineExceeded
	}
	return &Error{Op: c.op, Code: code, Message: ctx.Err().Error(), Err: ctx.Err(), Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED}
}

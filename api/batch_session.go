package api

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// startSession makes one token of those that a batch came with. A bad one is
// refused here, for the batch as a whole, before anything is executed.
func (o *operations) startSession(ctx context.Context, session string) (string, error) {
	if session == "" {
		return "", nil
	}
	merged, err := o.config.KV.MergeSessions(ctx, []string{session})
	if err != nil {
		return "", failureOf(err, false, o.config.APIAddress) // nothing was executed
	}
	return merged, nil
}

// takeSession takes the token out of one operation's result: the batch has one
// for all.
func takeSession(r *capstanv1.Result) string {
	var at *string
	switch r := r.GetResult().(type) {
	case *capstanv1.Result_Get:
		at = &r.Get.Session
	case *capstanv1.Result_Put:
		at = &r.Put.Session
	case *capstanv1.Result_Delete:
		at = &r.Delete.Session
	case *capstanv1.Result_Error:
		if r.Error.GetInfo() == nil {
			return ""
		}
		at = &r.Error.Info.Session
	default:
		return ""
	}
	token := *at
	*at = ""
	return token
}

// endSession makes one token of what the operations on each key left of the
// session that all of them started with. Each of those holds the start.
func (o *operations) endSession(ctx context.Context, start string, left []string) (string, error) {
	slices.Sort(left)
	left = slices.Compact(left)
	left = slices.DeleteFunc(left, func(token string) bool { return token == start })
	switch len(left) {
	case 0:
		return start, nil
	case 1:
		return left[0], nil
	}
	merged, err := o.config.KV.MergeSessions(ctx, left)
	if err == nil {
		return merged, nil
	}
	// The operations are done and their results should be told. Tokens side by
	// side mean the same as one token of them all, as long as they fit.
	if joined := strings.Join(left, TokenSeparator); len(joined) <= MaxTokenSize {
		return joined, nil
	}
	f := refuse(replication.BadToken, "the batch is done, but its session does not fit into 6 KiB; try: fewer operations in one batch")
	f.code, f.info.Outcome = connect.CodeInternal, capstanv1.Outcome_OUTCOME_UNKNOWN
	return "", f
}

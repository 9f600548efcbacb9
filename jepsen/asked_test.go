package jepsen

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// Only what the cluster says was not applied, or was not sent, is Fail.
func TestFailed(t *testing.T) {
	info := func(reason capstanv1.Reason) *capstanv1.ErrorInfo { return &capstanv1.ErrorInfo{Reason: reason} }
	yes, no := capstanv1.Outcome_OUTCOME_UNKNOWN, capstanv1.Outcome_OUTCOME_NOT_APPLIED
	for name, c := range map[string]struct {
		of   history.Func
		err  error
		want history.Op
	}{
		"refused write": {
			history.Put, &client.Error{Code: connect.CodeUnavailable, Outcome: no, Reason: capstanv1.Reason_REASON_NO_QUORUM, Info: info(capstanv1.Reason_REASON_NO_QUORUM), Message: "no"},
			history.Op{Outcome: history.Fail, Code: "unavailable", Reason: "NO_QUORUM", Error: "no"},
		},
		"write that was not sent": {
			history.Put, &client.Error{Code: connect.CodeUnavailable, Outcome: no, Message: "refused"},
			history.Op{Outcome: history.Fail, Code: "unavailable", Error: "refused"},
		},
		"lost write": {
			history.Delete, &client.Error{Code: connect.CodeDeadlineExceeded, Outcome: yes},
			history.Op{Outcome: history.Info, Code: "deadline_exceeded"},
		},
		"write short of acks": {
			history.Put, &client.Error{Code: connect.CodeAborted, Outcome: yes, Reason: capstanv1.Reason_REASON_TOO_FEW_ACKS, Info: info(capstanv1.Reason_REASON_TOO_FEW_ACKS), Receipt: "wr_1"},
			history.Op{Outcome: history.Info, Code: "aborted", Reason: "TOO_FEW_ACKS", Receipt: "wr_1"},
		},
		"condition": {
			history.Put, &client.Error{Code: connect.CodeFailedPrecondition, Outcome: no, Reason: capstanv1.Reason_REASON_CONDITION_FAILED, Info: info(capstanv1.Reason_REASON_CONDITION_FAILED), Current: &client.Version{Index: 4, Timestamp: 7, Node: "n1-a"}},
			history.Op{Outcome: history.Fail, Mismatch: true, Version: "4-7-n1-a", Code: "failed_precondition", Reason: "CONDITION_FAILED"},
		},
		"refused read": {
			history.Get, &client.Error{Code: connect.CodeUnavailable, Outcome: no, Reason: capstanv1.Reason_REASON_SESSION_BEHIND, Info: info(capstanv1.Reason_REASON_SESSION_BEHIND)},
			history.Op{Outcome: history.Fail, Code: "unavailable", Reason: "SESSION_BEHIND"},
		},
		"lost read": {
			history.Scan, &client.Error{Code: connect.CodeUnavailable, Outcome: no, Message: strings.Repeat("x", 2*maxError)},
			history.Op{Outcome: history.Info, Code: "unavailable", Error: strings.Repeat("x", maxError)},
		},
		"what nobody could send": {
			history.Put, errors.New("nonsense"),
			history.Op{Outcome: history.Fail, Code: "invalid_argument", Error: "nonsense"},
		},
	} {
		o := history.Op{Func: c.of}
		failed(&o, c.err)
		c.want.Func = c.of
		if o.String() != c.want.String() || o.Code != c.want.Code || o.Reason != c.want.Reason || o.Receipt != c.want.Receipt || o.Error != c.want.Error || o.Mismatch != c.want.Mismatch {
			t.Errorf("%s: %+v, want %+v", name, o, c.want)
		}
	}
	if got := failed(&history.Op{Func: history.Put}, &client.Error{Session: "st_"}); got != "st_" {
		t.Errorf("the session goes on with %q", got)
	}
}

// The cluster is told of the deadline, and its answer is waited for a little longer.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := patiently(t.Context(), time.Second)
		defer cancel()
		if told, _ := ctx.Deadline(); told.Sub(began) != time.Second {
			t.Errorf("the deadline is %v", told.Sub(began))
		}
		<-ctx.Done()
		if took := time.Since(began); took != time.Second+answerSlack {
			t.Errorf("it is waited %v", took)
		}
	})
}

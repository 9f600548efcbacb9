package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

func TestAwait(t *testing.T) {
	for name, test := range map[string]struct {
		fate           capstanv1.Fate
		version        *capstanv1.Version
		args           []string
		stdout, stderr string
		status         int
	}{
		"committed":           {capstanv1.Fate_FATE_COMMITTED, fakeVersion, nil, "committed   12-117309440000000003-n1-k3f9\n", "", 0},
		"verbose":             {capstanv1.Fate_FATE_COMMITTED, fakeVersion, []string{"-v"}, "committed   12-117309440000000003-n1-k3f9\n", "by n2\n", 0},
		"superseded":          {capstanv1.Fate_FATE_SUPERSEDED, fakeVersion, nil, "superseded  by 12-117309440000000003-n1-k3f9\n", "", 1},
		"below the floor":     {capstanv1.Fate_FATE_SUPERSEDED, nil, nil, "superseded  too old to know whether it was safe to apply\n", "", 1},
		"expired":             {capstanv1.Fate_FATE_EXPIRED, nil, nil, "expired     decided so long ago that the record is gone\n", "", 1},
		"lost":                {capstanv1.Fate_FATE_LOST, nil, nil, "lost        the nodes that held it were removed before it was committed\n", "", 1},
		"pending":             {capstanv1.Fate_FATE_PENDING, nil, []string{"--wait", "10ms"}, "pending     not decided after 10ms\n", "", 4},
		"pending, not waited": {capstanv1.Fate_FATE_PENDING, nil, []string{"--wait", "0"}, "pending     not decided yet\n", "", 4},
		"json": {capstanv1.Fate_FATE_SUPERSEDED, fakeVersion, []string{"-o", "json"},
			`{"fate":"FATE_SUPERSEDED","version":{"index":"12","timestamp":"117309440000000003","node":"n1-k3f9"},"session":"s9","servedBy":"n2"}` + "\n", "", 1},
		"negative": {capstanv1.Fate_FATE_COMMITTED, nil, []string{"--wait", "-1s"}, "", "error: --wait must not be below 0\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			t.Setenv(endpointsVariable, f.url)
			f.await = &capstanv1.AwaitWriteResponse{Fate: test.fate, Version: test.version, ServedBy: "n2", Session: "s9"}
			stdout, stderr, status := shell(t, "", append([]string{"await", "wr_9Qm2xT"}, test.args...)...)
			if stdout != test.stdout || stderr != test.stderr || status != test.status {
				t.Errorf("stdout %q\n  want %q\nstderr %q\n  want %q\nstatus %d, want %d", stdout, test.stdout, stderr, test.stderr, status, test.status)
			}
			if status == 2 {
				return
			}
			sent := f.sent(&capstanv1.AwaitWriteRequest{}).(*capstanv1.AwaitWriteRequest)
			if sent.GetReceipt() != "wr_9Qm2xT" || test.args == nil && (sent.GetWait().AsDuration() < 4*time.Second || sent.GetWait().AsDuration() > awaitWait) {
				t.Errorf("sent %v", sent)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		f := newFake(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var stdout, stderr bytes.Buffer
		status := run(ctx, nil, []string{"await", "wr_x", "--via", f.url}, nil, &stdout, &stderr)
		if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "error: interrupted") || status != 4 {
			t.Errorf("got %q, %q, %d", &stdout, &stderr, status)
		}
	})
	t.Run("one that was never given", func(t *testing.T) {
		f := newFake(t)
		f.fail = failure(connect.CodeInvalidArgument, "not a receipt of this cluster", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_BAD_TOKEN, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
		stdout, stderr, status := shell(t, "", "await", "wr_x", "--via", f.url)
		if stdout != "" || stderr != "error: invalid_argument: not a receipt of this cluster\n" || status != 2 {
			t.Errorf("got %q, %q, %d", stdout, stderr, status)
		}
	})
	t.Run("a session", func(t *testing.T) {
		f := newFake(t)
		f.await = &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate_FATE_COMMITTED, Version: fakeVersion, Session: "s9"}
		file := filepath.Join(t.TempDir(), "session")
		if err := os.WriteFile(file, []byte("s1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stderr, status := shell(t, "", "await", "wr_x", "--session-file", file, "--via", f.url); status != 0 {
			t.Fatal(stderr)
		}
		// What the session saw before is not forgotten.
		if kept, err := os.ReadFile(file); err != nil || string(kept) != "s1.s9\n" {
			t.Errorf("kept %q, %v", kept, err)
		}
	})
}

func TestConflicts(t *testing.T) {
	f := newFake(t)
	t.Setenv(endpointsVariable, f.url)
	if stdout, stderr, status := shell(t, "", "conflicts"); stdout != "" || stderr != "no conflicts\n" || status != 0 {
		t.Errorf("got %q, %q, %d", stdout, stderr, status)
	}
	at := timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	losing := &capstanv1.Version{Timestamp: 5, Node: "n3-p7wd"}
	stale, older := capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE, capstanv1.ConflictCause_CONFLICT_CAUSE_OLDER
	f.conflicts = []*capstanv1.ListConflictsResponse{
		{Conflicts: []*capstanv1.Conflict{
			{Key: []byte("a\x00"), LosingValue: []byte("new\nline"), LosingVersion: losing, WinningVersion: fakeVersion, Time: at, Cause: stale},
			{Key: []byte("b"), LosingDelete: true, LosingVersion: losing, WinningVersion: &capstanv1.Version{Index: 6, Timestamp: 7, Node: "n2-aaaa"}, Time: at, Cause: older},
		}},
		{Conflicts: []*capstanv1.Conflict{
			{Key: []byte("c"), LosingValue: []byte(strings.Repeat("long ", 20)), LosingVersion: losing, Time: at, Cause: stale},
		}},
	}
	long := strings.Repeat("long ", 8) + "..."
	pad := strings.Repeat(" ", len(long)-len("LOST VALUE"))
	want := "KEY      LOST VALUE" + pad + "  LOST TO                        WHY\n" +
		`"a\x00"  "new\nline"` + pad[1:] + "  12-117309440000000003-n1-k3f9  had not heard of this linearizable write\n" +
		"b        (delete)  " + pad + "  6-7-n2-aaaa                    older of two eventual writes\n" +
		"c        " + long + "  -                              too old to know whether it was safe to apply\n"
	stdout, stderr, status := shell(t, "", "conflicts", "a", "--limit", "3")
	if stdout != want || stderr != "" || status != 0 {
		t.Errorf("status %d\n%s\nwant\n%s%s", status, stdout, want, stderr)
	}
	if sent := f.sent(&capstanv1.ListConflictsRequest{}).(*capstanv1.ListConflictsRequest); string(sent.GetPrefix()) != "a" || sent.GetLimit() != 3 {
		t.Errorf("sent %v", sent)
	}
	stdout, _, status = shell(t, "", "conflicts", "-v")
	if !strings.HasPrefix(stdout, "WHEN                  KEY  ") || !strings.Contains(stdout, "\n2026-11-22T10:00:00Z  b        (delete)  ") || !strings.Contains(stdout, "  0-5-n3-p7wd   6-7-n2-aaaa  ") || status != 0 {
		t.Errorf("status %d\n%s", status, stdout)
	}
	stdout, _, status = shell(t, "", "conflicts", "-o", "json")
	if strings.Count(stdout, "\n") != 2 || !strings.HasPrefix(stdout, `{"conflicts":[{"key":"YQA=","losingValue":"bmV3CmxpbmU=",`) || status != 0 {
		t.Errorf("status %d\n%s", status, stdout)
	}
	// What is listed no more is not hidden.
	const line = "dropped: 5416 more, of any key: a partition keeps its latest 10,000 conflicts, 16 MiB, seven days\n"
	f.conflicts[1].Dropped = 5416
	if stdout, stderr, status = shell(t, "", "conflicts"); stdout != want+line || stderr != "" || status != 0 {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if stdout, _, _ = shell(t, "", "conflicts", "-o", "json"); !strings.HasSuffix(stdout, `"dropped":"5416"}`+"\n") {
		t.Errorf("%s", stdout)
	}
	listed := f.conflicts
	f.conflicts = []*capstanv1.ListConflictsResponse{{Dropped: 5416}}
	if stdout, stderr, status = shell(t, "", "conflicts"); stdout != line || stderr != "" || status != 0 {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	f.conflicts = listed
	// A part of the list must not look like all of it.
	f.fail = failure(connect.CodeUnavailable, "no leader for partition 3", &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED})
	stdout, stderr, status = shell(t, "", "conflicts", "--via", f.url)
	if stdout != "" || !strings.HasPrefix(stderr, "error: unavailable: ") || status != 3 {
		t.Errorf("status %d: %q, %q", status, stdout, stderr)
	}
	if _, stderr, status := shell(t, "", "conflicts", "a", "b"); status != 2 || !strings.Contains(stderr, "takes PREFIX") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

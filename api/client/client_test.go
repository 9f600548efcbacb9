package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func start(t *testing.T, nodes int, change ...func(*client.Options)) (*fakeCluster, *client.Client) {
	t.Helper()
	cluster := newFakeCluster(nodes, 16)
	t.Cleanup(cluster.close)
	o := client.Options{Endpoints: cluster.endpoints()}
	for _, f := range change {
		f(&o)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return cluster, c
}

func refreshed(t *testing.T, c *client.Client) {
	t.Helper()
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func asError(t *testing.T, err error) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want a *client.Error", err, err)
	}
	return e
}

func TestReadAndWriteThroughTheLeader(t *testing.T) {
	cluster, c := start(t, 3, func(o *client.Options) { o.Endpoints = o.Endpoints[:1] })
	refreshed(t, c)
	cluster.setLeader(2)
	refreshed(t, c)
	for i := range 10 {
		key := fmt.Appendf(nil, "k%d", i)
		if _, err := c.Put(t.Context(), key, []byte("v")); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Get(t.Context(), key); err != nil || !r.Found || string(r.Value) != "v" {
			t.Fatalf("got %+v, %v", r, err)
		}
	}
	if puts, gets := cluster.nodes[2].count("put"), cluster.nodes[2].count("get"); puts != 10 || gets != 10 {
		t.Errorf("the leader got %d puts and %d gets of 10 each", puts, gets)
	}
}

func TestAHintAtTheLeaderIsFollowed(t *testing.T) {
	cluster, c := start(t, 3)
	cluster.setLeader(0)
	refreshed(t, c)
	cluster.setLeader(1)
	cluster.nodes[0].failWith(func(op string) error {
		if op == "put" {
			return failure(connect.CodeUnavailable, "n1 does not lead", &capstanv1.ErrorInfo{
				Reason: capstanv1.Reason_REASON_NO_QUORUM, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED,
				Leader: strings.TrimPrefix(cluster.nodes[1].server.URL, "http://"),
			})
		}
		return nil
	})
	if _, err := c.Put(t.Context(), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	if n := cluster.nodes[1].count("put"); n != 1 {
		t.Fatalf("the hinted leader got %d puts", n)
	}
	untilStraightToTheLeader(t, cluster, c)
}

func TestAnAnswerByAnotherNodeRefreshesTheRing(t *testing.T) {
	cluster, c := start(t, 3)
	cluster.setLeader(0)
	refreshed(t, c)
	cluster.setLeader(1) // n1 hands calls on: its answers name n2
	untilStraightToTheLeader(t, cluster, c)
}

// untilStraightToTheLeader writes until the old leader, n1, is not asked any
// more.
func untilStraightToTheLeader(t *testing.T, cluster *fakeCluster, c *client.Client) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; {
		before := cluster.nodes[0].count("put")
		if _, err := c.Put(t.Context(), []byte("k"), nil); err != nil {
			t.Fatal(err)
		}
		if cluster.nodes[0].count("put") == before {
			return
		}
		if time.Now().After(end) {
			t.Fatal("calls still go to the old leader")
		}
	}
}

func TestFailoverWhenNothingListens(t *testing.T) {
	cluster, c := start(t, 3, func(o *client.Options) { o.Endpoints = append([]string{unusedAddress()}, o.Endpoints...) })
	if _, err := c.Put(t.Context(), []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	refreshed(t, c)
	cluster.setLeader(1)
	refreshed(t, c)
	cluster.nodes[1].server.CloseClientConnections()
	cluster.nodes[1].server.Close()
	// A read finds out; a write on the connection that was there a moment ago
	// would be of unknown outcome.
	if _, err := c.Get(t.Context(), []byte("k")); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := c.Put(t.Context(), fmt.Appendf(nil, "k%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNobodyThereIsSaidSoon(t *testing.T) {
	c, err := client.New(client.Options{Endpoints: []string{unusedAddress()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Put(t.Context(), []byte("k"), nil)
	if e := asError(t, err); e.Attempts != 4 || e.Code != connect.CodeUnavailable || !client.IsNotApplied(err) {
		t.Errorf("got %+v", e)
	}
}

// What may be sent again, and what never.
func TestRetries(t *testing.T) {
	unknown := &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_LEADER_CHANGED, Outcome: capstanv1.Outcome_OUTCOME_UNKNOWN}
	tests := []struct {
		name       string
		err        error
		puts, gets int // how often each is sent when every attempt fails so, of at most 3
		unknown    bool
	}{
		{"no quorum", failure(connect.CodeUnavailable, "no quorum", notApplied(capstanv1.Reason_REASON_NO_QUORUM)), 3, 3, false},
		{"stopping", failure(connect.CodeUnavailable, "stopping", notApplied(capstanv1.Reason_REASON_STOPPING)), 3, 3, false},
		{"unavailable with a detail that names no outcome", failure(connect.CodeUnavailable, "x", &capstanv1.ErrorInfo{}), 3, 3, false},
		{"overloaded", failure(connect.CodeResourceExhausted, "busy", notApplied(capstanv1.Reason_REASON_OVERLOADED)), 3, 3, false},
		{"disk full", failure(connect.CodeResourceExhausted, "full", notApplied(capstanv1.Reason_REASON_DISK_FULL)), 1, 1, false},
		{"bad option", failure(connect.CodeInvalidArgument, "acks", notApplied(capstanv1.Reason_REASON_BAD_OPTION)), 1, 1, false},
		{"condition failed", failure(connect.CodeFailedPrecondition, "present", notApplied(capstanv1.Reason_REASON_CONDITION_FAILED)), 1, 1, false},
		{"leader changed, unknown", failure(connect.CodeAborted, "lost", unknown), 1, 3, true},
		{"no detail: unavailable", failure(connect.CodeUnavailable, "a proxy says so", nil), 1, 3, true},
		{"no detail: unimplemented", failure(connect.CodeUnimplemented, "what?", nil), 1, 1, true},
		{"no detail: invalid argument", failure(connect.CodeInvalidArgument, "what?", nil), 1, 1, true},
		{"no detail: internal", failure(connect.CodeInternal, "oops", nil), 1, 3, true},
		{"deadline, unknown", failure(connect.CodeDeadlineExceeded, "late", &capstanv1.ErrorInfo{Reason: capstanv1.Reason_REASON_DEADLINE, Outcome: capstanv1.Outcome_OUTCOME_UNKNOWN}), 1, 3, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cluster, c := start(t, 2, func(o *client.Options) { o.MaxAttempts = 3; o.NoRing = true })
			for _, n := range cluster.nodes {
				n.failWith(func(string) error { return test.err })
			}
			total := func(op string) int { return cluster.nodes[0].count(op) + cluster.nodes[1].count(op) }
			_, err := c.Put(t.Context(), []byte("k"), nil)
			e := asError(t, err)
			if n := total("put"); n != test.puts || e.Attempts != test.puts {
				t.Errorf("the put was sent %d times (the error says %d), want %d", n, e.Attempts, test.puts)
			}
			if client.IsOutcomeUnknown(err) != test.unknown || client.IsNotApplied(err) == test.unknown {
				t.Errorf("outcome of the put: %v", e.Outcome)
			}
			_, err = c.Get(t.Context(), []byte("k"))
			if n := total("get"); n != test.gets {
				t.Errorf("the get was sent %d times, want %d", n, test.gets)
			}
			if client.IsOutcomeUnknown(err) {
				t.Error("a read has no effect, so its outcome is never unknown")
			}
		})
	}
}

func TestViaIsThatNodeAloneOnce(t *testing.T) {
	cluster, c := start(t, 3)
	refreshed(t, c)
	cluster.setLeader(0)
	for _, via := range []string{"n2", "n2-aaaa", cluster.nodes[1].server.URL, strings.TrimPrefix(cluster.nodes[1].server.URL, "http://")} {
		before := cluster.nodes[1].count("put")
		if _, err := c.Put(t.Context(), []byte("k"), nil, client.Via(via)); err != nil {
			t.Fatal(err)
		}
		if cluster.nodes[1].count("put") != before+1 {
			t.Errorf("via %s: another node was asked", via)
		}
	}
	cluster.nodes[1].failWith(func(op string) error {
		if op == "status" {
			return nil
		}
		return failure(connect.CodeUnavailable, "no quorum for partition 9: n2 reaches 1 of 3 replicas, 2 needed; try: --via n1", &capstanv1.ErrorInfo{
			Reason: capstanv1.Reason_REASON_NO_QUORUM, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED, Reachable: 1, Needed: 2,
			Leader: cluster.nodes[0].server.URL,
		})
	})
	before, others := cluster.nodes[1].count("put"), cluster.nodes[0].count("put")+cluster.nodes[2].count("put")
	_, err := c.Put(t.Context(), []byte("k"), nil, client.Via("n2"))
	if e := asError(t, err); e.Try != "--via n1" || e.Reachable != 1 || e.Needed != 2 || !errors.Is(err, client.ErrNoQuorum) || errors.Is(err, client.ErrOverloaded) {
		t.Errorf("got %+v", e)
	}
	if cluster.nodes[1].count("put") != before+1 || cluster.nodes[0].count("put")+cluster.nodes[2].count("put") != others {
		t.Error("a call via one node went elsewhere, or twice")
	}
	_, err = c.Get(t.Context(), []byte("k"), client.Via("n9"))
	if e := asError(t, err); e.Code != connect.CodeInvalidArgument || !client.IsNotApplied(err) {
		t.Errorf("an unknown node: %v", err)
	}
	_, err = c.Put(t.Context(), []byte("k"), nil, client.Via(unusedAddress()))
	if e := asError(t, err); e.Attempts != 1 || !client.IsNotApplied(err) {
		t.Errorf("a node that is not there: %+v", e)
	}
}

func TestConditionFailed(t *testing.T) {
	_, c := start(t, 1)
	if _, err := c.Put(t.Context(), []byte("k"), []byte("1"), client.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Put(t.Context(), []byte("k"), []byte("2"), client.IfAbsent())
	if e := asError(t, err); !errors.Is(err, client.ErrConditionFailed) || e.Current == nil || e.Current.String() != "1-7-n1-aaaa" {
		t.Errorf("got %+v", e)
	}
}

func TestDeadlines(t *testing.T) {
	release := make(chan struct{})
	cluster, c := start(t, 2, func(o *client.Options) { o.Timeout = 600 * time.Millisecond; o.NoRing = true })
	t.Cleanup(func() { close(release) })
	cluster.nodes[0].failWith(func(string) error { <-release; return nil })
	// A write waits and does not know; a read leaves time for another node.
	_, err := c.Put(t.Context(), []byte("k"), nil)
	if e := asError(t, err); e.Code != connect.CodeDeadlineExceeded || !client.IsOutcomeUnknown(err) || cluster.nodes[1].count("put") != 0 {
		t.Errorf("got %+v", e)
	}
	if _, err := c.Get(t.Context(), []byte("k")); err != nil {
		t.Errorf("the other node could have answered: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Put(done, []byte("k"), nil)
	if e := asError(t, err); e.Code != connect.CodeCanceled || !client.IsNotApplied(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v", e)
	}
}

func TestARetryNeverOutlivesTheDeadline(t *testing.T) {
	cluster, c := start(t, 1, func(o *client.Options) { o.MaxAttempts = 1000; o.NoRing = true })
	cluster.nodes[0].failWith(func(string) error {
		return failure(connect.CodeUnavailable, "no quorum", notApplied(capstanv1.Reason_REASON_NO_QUORUM))
	})
	// Long beside a single attempt also on a busy machine: one that the deadline
	// ends has an unknown outcome, rightly.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	_, err := c.Put(ctx, []byte("k"), nil)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if !client.IsNotApplied(err) || !errors.Is(err, client.ErrNoQuorum) {
		t.Errorf("all attempts failed definitely, got %v", err)
	}
}

func TestScan(t *testing.T) {
	cluster, c := start(t, 2, func(o *client.Options) { o.NoRing = true })
	for _, k := range []string{"a1", "a2", "b"} {
		if _, err := c.Put(t.Context(), []byte(k), []byte("v"+k)); err != nil {
			t.Fatal(err)
		}
	}
	collect := func() (keys []string, err error) {
		for e, err := range c.Scan(t.Context(), client.Prefix([]byte("a"))) {
			if err != nil {
				return keys, err
			}
			keys = append(keys, string(e.Key))
		}
		return keys, nil
	}
	if keys, err := collect(); err != nil || strings.Join(keys, " ") != "a1 a2" {
		t.Fatalf("got %q, %v", keys, err)
	}
	for range c.Scan(t.Context()) {
		break // leaving early is fine
	}
	// Broken before the first entry: elsewhere. Broken after it: an error.
	cluster.nodes[0].failWith(func(op string) error {
		if op == "scan" {
			return failure(connect.CodeUnavailable, "stopping", notApplied(capstanv1.Reason_REASON_STOPPING))
		}
		return nil
	})
	if keys, err := collect(); err != nil || len(keys) != 2 {
		t.Fatalf("got %q, %v", keys, err)
	}
	for _, n := range cluster.nodes {
		n.failWith(func(op string) error {
			if op == "scan entry" {
				return failure(connect.CodeUnavailable, "stopping", notApplied(capstanv1.Reason_REASON_STOPPING))
			}
			return nil
		})
	}
	if keys, err := collect(); len(keys) != 1 || !errors.Is(err, client.ErrIncomplete) {
		t.Fatalf("got %q, %v", keys, err)
	}
	for _, n := range cluster.nodes {
		n.failWith(func(op string) error {
			if op == "scan entry" {
				return errors.New("no end")
			}
			return nil
		})
	}
	if keys, err := collect(); len(keys) != 1 || !errors.Is(err, client.ErrIncomplete) || asError(t, err).Code != connect.CodeUnavailable {
		t.Fatalf("a scan that ends without its end: got %q, %v", keys, err)
	}
}

func TestBatch(t *testing.T) {
	_, c := start(t, 1)
	r, err := c.Batch(t.Context(), []client.Op{
		client.PutOp([]byte("k"), []byte("v"), client.IfAbsent()),
		client.GetOp([]byte("k")),
		client.PutOp([]byte("k"), nil, client.IfAbsent()),
		client.DeleteOp([]byte("k")),
	})
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Results[1].Get.Value) != "v" || !errors.Is(r.Results[2].Err, client.ErrConditionFailed) || !*r.Results[3].Delete.Existed {
		t.Errorf("got %+v", r.Results)
	}
}

// Whatever answers in place of a node must not look like success, and must not
// make a write happen twice.
func TestMalformedAnswers(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"a page":        func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello</html>") },
		"not found":     http.NotFound,
		"bad gateway":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no upstream", 502) },
		"redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere"+r.URL.Path, 307) },
		"empty message": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "application/proto") },
		"garbage": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/proto")
			w.Write([]byte{0xff, 0xff, 0xff})
		},
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"compressed anyway": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/proto")
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte{1})
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/proto")
			w.Write(make([]byte, 5<<20))
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			s := newH2CServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/Put") {
					calls.Add(1)
				}
				answer(w, r)
			}))
			defer s.Close()
			c, err := client.New(client.Options{Endpoints: []string{s.URL}, MaxAttempts: 3})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Put(t.Context(), []byte("k"), nil); err == nil || !client.IsOutcomeUnknown(err) {
				t.Errorf("got %v, want an unknown outcome", err)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("the write was sent %d times", n)
			}
			if err := c.Refresh(t.Context()); err == nil {
				t.Error("that was no ring")
			}
		})
	}
}

func TestAMessageThatNoNodeReadsIsNotSent(t *testing.T) {
	cluster, c := start(t, 1)
	_, err := c.Put(t.Context(), []byte("k"), make([]byte, 5<<20))
	if e := asError(t, err); e.Code != connect.CodeInvalidArgument || !client.IsNotApplied(err) || cluster.nodes[0].count("put") != 0 {
		t.Errorf("got %+v", e)
	}
}

func TestOptions(t *testing.T) {
	for _, endpoint := range []string{"", "ftp://x", "http://", "http://u:p@x", "http://x?y", "://", "http://a b"} {
		if _, err := client.New(client.Options{Endpoints: []string{endpoint}}); err == nil {
			t.Errorf("endpoint %q was taken", endpoint)
		}
	}
	v, err := client.ParseVersion("12-117309440000000003-n1-k3f9")
	if err != nil || v != (client.Version{Index: 12, Timestamp: 117309440000000003, Node: "n1-k3f9"}) || v.String() != "12-117309440000000003-n1-k3f9" {
		t.Errorf("got %v, %v", v, err)
	}
	for _, s := range []string{"", "1-2", "1-2-", "x-2-n", "-1-2-n"} {
		if _, err := client.ParseVersion(s); err == nil {
			t.Errorf("version %q was taken", s)
		}
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	cluster := newFakeCluster(2, 16)
	before := runtime.NumGoroutine()
	for range 5 {
		c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), []byte("k")); err != nil {
			t.Fatal(err)
		}
		for range c.Scan(t.Context()) {
			break
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = c.Get(t.Context(), []byte("k"))
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	cluster.close()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	cluster, c := start(t, 3)
	failures := make(chan error, 16)
	for g := range 16 {
		go func() {
			for i := range 20 {
				key := fmt.Appendf(nil, "k%d-%d", g, i)
				if _, err := c.Put(t.Context(), key, key); err != nil {
					failures <- err
					return
				}
				if i == 10 {
					cluster.setLeader(g % 3)
					_ = c.Refresh(t.Context())
				}
			}
			failures <- nil
		}()
	}
	for range 16 {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}

package client_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func startSessions(t *testing.T, nodes int, change ...func(*client.Options)) (*fakeCluster, *client.Client) {
	t.Helper()
	cluster, c := start(t, nodes, change...)
	cluster.sessions = &fakeSessions{name: "c1"}
	return cluster, c
}

func sessionOf(t *testing.T, c *client.Client) string {
	t.Helper()
	token, err := c.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Each call is told of those before it, whatever node and level it goes to.
func TestTheClientCarriesASession(t *testing.T) {
	cluster, c := startSessions(t, 3)
	refreshed(t, c)
	k := []byte("k")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put, err := c.Put(t.Context(), k, nil, client.Eventual()) // call 1
	must(err)
	if put.Session != "" {
		t.Errorf("the client carries the session, and gives the token away: %q", put.Session)
	}
	_, err = c.Get(t.Context(), k, client.Via("n3"), client.Bounded(time.Second)) // 2
	must(err)
	if !holds(cluster.last(), 1) {
		t.Errorf("the read came with %q", cluster.last())
	}
	_, err = c.Delete(t.Context(), k) // 3
	must(err)
	if !holds(cluster.last(), 1, 2) {
		t.Errorf("the delete came with %q", cluster.last())
	}
	for _, err := range c.Scan(t.Context()) { // 4
		must(err)
	}
	if !holds(cluster.last(), 1, 2, 3) {
		t.Errorf("the scan came with %q", cluster.last())
	}
	_, err = c.Get(t.Context(), k, client.NoSession()) // 5
	must(err)
	if !holds(cluster.last()) {
		t.Errorf("a call without session came with %q", cluster.last())
	}
	_, err = c.Get(t.Context(), k) // 6
	must(err)
	if !holds(cluster.last(), 1, 2, 3, 4) {
		t.Errorf("after the scan and a call of no session a get came with %q", cluster.last())
	}
	_, err = c.Get(t.Context(), []byte("other")) // 7: another partition, which has seen the scan
	must(err)
	if !holds(cluster.last(), 1, 2, 3, 4) {
		t.Errorf("a get of another key came with %q", cluster.last())
	}
	_, err = c.AwaitWrite(t.Context(), "wr_k", 0) // 8
	must(err)
	if token := sessionOf(t, c); !holds(token, 1, 2, 3, 4, 6, 7, 8) {
		t.Errorf("the client's session is %q", token)
	}
	r, err := c.Batch(t.Context(), []client.Op{client.GetOp(k), client.GetOp([]byte("x"))}) // 9, and its two gets
	must(err)
	if token := sessionOf(t, c); r.Session != "" || !holds(token, 1, 2, 3, 4, 6, 7, 8, 9) || strings.Contains(token, ".") {
		t.Errorf("after a call about all partitions the session is %q", token)
	}
}

func TestAGivenSessionIsTheCallersOwn(t *testing.T) {
	cluster, c := startSessions(t, 2)
	k := []byte("k")
	if _, err := c.Put(t.Context(), k, nil); err != nil { // 1
		t.Fatal(err)
	}
	first, err := c.Put(t.Context(), k, nil, client.Session("")) // 2
	if err != nil || !holds(first.Session, 2) {
		t.Fatalf("a new session is %q, %v", first.Session, err)
	}
	got, err := c.Get(t.Context(), k, client.Session(first.Session)) // 3
	if err != nil || !holds(got.Session, 2, 3) || cluster.last() != first.Session {
		t.Fatalf("%q after %q, %v", got.Session, cluster.last(), err)
	}
	for m, err := range c.ScanMessages(t.Context(), client.Session(got.Session)) { // 4
		if err != nil {
			t.Fatal(err)
		}
		if end := m.GetEnd(); end != nil && !holds(end.GetSession(), 2, 3, 4) {
			t.Errorf("after a scan: %q", end.GetSession())
		}
	}
	batch, err := c.Batch(t.Context(), []client.Op{client.GetOp(k)}, client.Session(got.Session)) // 5, 6
	if err != nil || !holds(batch.Session, 2, 3, 5) {
		t.Errorf("after a batch: %q, %v", batch.Session, err)
	}
	fate, err := c.AwaitWrite(t.Context(), "wr_k", 0, client.Session(got.Session)) // 7
	if err != nil || !holds(fate.Session, 2, 3, 7) {
		t.Errorf("after await: %q, %v", fate.Session, err)
	}
	if token := sessionOf(t, c); !holds(token, 1) {
		t.Errorf("the client's own session is %q", token)
	}
	again, err := client.New(client.Options{Endpoints: cluster.endpoints(), Session: got.Session})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Get(t.Context(), k); err != nil || cluster.last() != got.Session {
		t.Errorf("a client that goes on with a session came with %q, %v", cluster.last(), err)
	}
	if _, err := client.New(client.Options{Session: strings.Repeat("x", tokenLimit+1)}); err == nil {
		t.Error("a session that no node would take was taken")
	}
}

func TestAClientWithoutSession(t *testing.T) {
	cluster, c := startSessions(t, 2, func(o *client.Options) { o.NoSession = true })
	for range 3 {
		if _, err := c.Put(t.Context(), []byte("k"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AwaitWrite(t.Context(), "wr_k", 0); err != nil {
			t.Fatal(err)
		}
	}
	if token := sessionOf(t, c); token != "" || cluster.last() != "" {
		t.Errorf("it carries %q", token)
	}
	if r, err := c.Get(t.Context(), []byte("k"), client.Session("")); err != nil || r.Session == "" {
		t.Errorf("a given session: %v", err)
	}
}

// A failure has a token too: what it wrote may be there.
func TestAFailureIsAPartOfTheSession(t *testing.T) {
	cluster, c := startSessions(t, 1)
	k := []byte("k")
	if _, err := c.Put(t.Context(), k, nil); err != nil { // 1
		t.Fatal(err)
	}
	cluster.nodes[0].failWith(func(string) error {
		return failure(connect.CodeAborted, "1 of 2 nodes hold it", &capstanv1.ErrorInfo{
			Reason: capstanv1.Reason_REASON_TOO_FEW_ACKS, Outcome: capstanv1.Outcome_OUTCOME_UNKNOWN,
			Reachable: 1, Needed: 2, Receipt: "wr_k", Session: "c1_1_77",
		})
	})
	_, err := c.Put(t.Context(), k, nil, client.Eventual(), client.Acks(2))
	if e := asError(t, err); e.Receipt != "wr_k" || e.Session != "" || e.Reachable != 1 || e.Needed != 2 || !errors.Is(err, client.ErrTooFewAcks) || !client.IsOutcomeUnknown(err) {
		t.Errorf("got %+v", e)
	}
	if n := cluster.nodes[0].count("put"); n != 2 {
		t.Errorf("a write of unknown outcome was sent %d times", n-1)
	}
	if token := sessionOf(t, c); !holds(token, 1, 77) {
		t.Errorf("the session is %q", token)
	}
	_, err = c.Put(t.Context(), k, nil, client.Eventual(), client.Session("c1_5"))
	if e := asError(t, err); e.Session != "c1_1_77" {
		t.Errorf("a given session goes on with %q", e.Session)
	}
}

// A cluster made anew on the same addresses does not know the old one's tokens.
func TestASessionOfAnotherClusterFailsOnce(t *testing.T) {
	cluster, c := startSessions(t, 1)
	k := []byte("k")
	if _, err := c.Put(t.Context(), k, nil); err != nil {
		t.Fatal(err)
	}
	cluster.mu.Lock()
	cluster.sessions = &fakeSessions{name: "c2"}
	cluster.mu.Unlock()
	_, err := c.Put(t.Context(), k, nil)
	if !errors.Is(err, client.ErrBadToken) || !client.IsNotApplied(err) {
		t.Fatalf("got %v", err)
	}
	if _, err := c.Put(t.Context(), k, nil); err != nil {
		t.Fatal(err)
	}
	// Also when that is found out by merging.
	cluster.sessions.padding = 2000
	for range 4 {
		if _, err := c.AwaitWrite(t.Context(), "wr_k", 0); err != nil {
			t.Fatal(err)
		}
	}
	cluster.mu.Lock()
	cluster.sessions = &fakeSessions{name: "c3", padding: 2000}
	cluster.mu.Unlock()
	for range 2 { // enough for a merge
		if _, err := c.AwaitWrite(t.Context(), "wr_k", 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(t.Context(), k, nil); err != nil {
		t.Fatalf("the old tokens are kept: %v", err)
	}
	cluster.mu.Lock()
	cluster.sessions = &fakeSessions{name: "c2"}
	cluster.mu.Unlock()
	if _, err := c.Put(t.Context(), k, nil); !errors.Is(err, client.ErrBadToken) {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), k, nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), k, client.Session("c1_1"))
	if !errors.Is(err, client.ErrBadToken) {
		t.Errorf("a given session of another cluster: %v", err)
	}
	if token := sessionOf(t, c); !strings.HasPrefix(token, "c2_") {
		t.Errorf("the session is %q", token)
	}
}

// Tokens that do not fit into one request are merged by the cluster first.
func TestTokensThatDoNotFitAreMerged(t *testing.T) {
	cluster, c := startSessions(t, 2)
	cluster.sessions.padding = 1000 // bytes: five fit
	refreshed(t, c)
	var want []int
	for i := range 20 { // one partition each, more or less
		if _, err := c.Put(t.Context(), fmt.Appendf(nil, "k%d", i), nil); err != nil {
			t.Fatal(err)
		}
		want = append(want, i+1)
	}
	token := sessionOf(t, c)
	if !holds(token, want...) || len(token) > tokenLimit || cluster.sessions.merges == 0 {
		t.Errorf("%d bytes after %d merges: %q", len(token), cluster.sessions.merges, token)
	}
	merges := cluster.sessions.merges
	for range 10 {
		if _, err := c.AwaitWrite(t.Context(), "wr_k", 0); err != nil {
			t.Fatal(err)
		}
	}
	if token := sessionOf(t, c); len(token) > tokenLimit || cluster.sessions.merges == merges {
		t.Errorf("tokens of fates pile up: %d bytes after %d merges", len(token), cluster.sessions.merges)
	}
	// Two that each fill a request can not be merged: an error, and no call
	// that would see less.
	full := strings.Repeat("~", tokenLimit-20)
	over, err := client.New(client.Options{Endpoints: cluster.endpoints(), Session: "c1_98" + full})
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if _, err := over.AwaitWrite(t.Context(), "wr_k", 0); err != nil {
		t.Fatal(err)
	}
	puts := cluster.nodes[0].count("put") + cluster.nodes[1].count("put")
	_, err = over.Put(t.Context(), []byte("k"), nil)
	if e := asError(t, err); !errors.Is(err, client.ErrBadToken) || !client.IsNotApplied(err) || e.Try == "" || puts != cluster.nodes[0].count("put")+cluster.nodes[1].count("put") {
		t.Errorf("got %+v", e)
	}
	if _, err := over.Put(t.Context(), []byte("k"), nil, client.NoSession()); err != nil {
		t.Error(err)
	}
}

// With many calls at once on few partitions the requests stay within their
// bound, and every call is told of those that had returned.
func TestManyCallsAtOnceAreOneSession(t *testing.T) {
	cluster, c := startSessions(t, 3)
	cluster.sessions.padding = 400
	refreshed(t, c)
	var workers sync.WaitGroup
	for g := range 32 {
		workers.Go(func() {
			for i := range 10 {
				if _, err := c.Put(t.Context(), fmt.Appendf(nil, "k%d", (g+i)%3), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	var all []int
	for i := range 320 {
		all = append(all, i+1)
	}
	if token := sessionOf(t, c); !holds(token, all...) {
		t.Errorf("calls are missing in %q", token)
	}
	t.Logf("%d merges", cluster.sessions.merges)
}

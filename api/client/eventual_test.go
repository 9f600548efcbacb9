package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func (c *fakeCluster) counts(op string) []int {
	var counts []int
	for _, n := range c.nodes {
		counts = append(counts, n.count(op))
	}
	return counts
}

// A call that needs no leader goes to one replica, the same each time, so that
// a session finds there what it wrote; and not all clients' to one.
func TestEventualCallsGoToOneReplica(t *testing.T) {
	seen := map[int]bool{}
	for range 64 { // clients, until all nodes were seen: the chance of missing one is 1 in 10^11
		if len(seen) == 3 {
			return
		}
		inVirtualTime(t, 3, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			cluster.setLeader(0)
			refreshed(t, c)
			k := []byte("k")
			for range 3 {
				put, err := c.Put(t.Context(), k, []byte("v"), client.Eventual())
				if err != nil || put.Version.Index != 0 || put.Receipt != "wr_k" || put.Base != 3 {
					t.Fatalf("got %+v, %v", put, err)
				}
				got, err := c.Get(t.Context(), k, client.Eventual(), client.Replicas(2))
				if err != nil || !got.Freshness.Tentative || got.Freshness.Known {
					t.Fatalf("got %+v, %v", got, err)
				}
				if _, err := c.Get(t.Context(), k, client.Bounded(time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Batch(t.Context(), []client.Op{client.GetOp(k, client.Eventual())}); err != nil {
					t.Fatal(err)
				}
			}
			at := slices.Index(cluster.counts("put"), 3)
			if at < 0 || cluster.nodes[at].count("get") != 9 || cluster.nodes[at].count("batch") != 3 {
				t.Errorf("one key's puts went to the nodes so: %v; gets %v, batches %v", cluster.counts("put"), cluster.counts("get"), cluster.counts("batch"))
			}
			seen[at] = true
		})
	}
	t.Errorf("all clients ask the nodes %v", seen)
}

// A replica in another region is asked only if those near do not answer.
func TestNearReplicasFirst(t *testing.T) {
	for range 8 { // clients
		far := map[int]time.Duration{0: 80 * time.Millisecond, 1: 3 * time.Millisecond, 2: 200 * time.Millisecond}
		inVirtualTime(t, 3, far, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			refreshed(t, c)
			get := func() {
				for i := range 16 {
					if _, err := c.Get(t.Context(), fmt.Appendf(nil, "k%d", i), client.Eventual()); err != nil {
						t.Fatal(err)
					}
				}
			}
			get() // until each was measured
			before := cluster.counts("get")
			get()
			if after := cluster.counts("get"); after[1]-before[1] != 16 {
				t.Errorf("far nodes were asked: %v, then %v", before, after)
			}
			cluster.nodes[1].failWith(func(string) error {
				return failure(connect.CodeUnavailable, "stopping", notApplied(capstanv1.Reason_REASON_STOPPING))
			})
			before = cluster.counts("get")
			get()
			if after := cluster.counts("get"); after[0]-before[0] != 16 || after[2] != before[2] {
				t.Errorf("not the next nearest: %v, then %v", before, after)
			}
		})
	}
}

// Another node may know or reach more: a definite refusal is taken elsewhere, at
// once. What may have been written is not written again.
func TestEventualCallsFailOverOnDefiniteErrorsOnly(t *testing.T) {
	for _, test := range []struct {
		name    string
		err     error
		retried bool
	}{
		{"too few acks, refused", failure(connect.CodeUnavailable, "1 of 2", notApplied(capstanv1.Reason_REASON_TOO_FEW_ACKS)), true},
		{"no replica", failure(connect.CodeUnavailable, "none", notApplied(capstanv1.Reason_REASON_NO_REPLICA)), true},
		{"session behind", failure(connect.CodeUnavailable, "behind", notApplied(capstanv1.Reason_REASON_SESSION_BEHIND)), true},
		{"too few acks, in the middle", failure(connect.CodeAborted, "1 of 2", &capstanv1.ErrorInfo{
			Reason: capstanv1.Reason_REASON_TOO_FEW_ACKS, Outcome: capstanv1.Outcome_OUTCOME_UNKNOWN, Receipt: "wr_k",
		}), false},
		{"a proxy's", failure(connect.CodeUnavailable, "?", nil), false},
		{"disk full", failure(connect.CodeResourceExhausted, "full", notApplied(capstanv1.Reason_REASON_DISK_FULL)), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inVirtualTime(t, 3, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
				refreshed(t, c)
				var refused atomic.Int32
				for _, n := range cluster.nodes {
					n.failWith(func(op string) error {
						if op == "put" && refused.Add(1) < 3 { // the third accepts
							return test.err
						}
						return nil
					})
				}
				began := time.Now()
				_, err := c.Put(t.Context(), []byte("k"), nil, client.Eventual(), client.Acks(2))
				puts, want := cluster.counts("put"), []int{0, 0, 1}
				slices.Sort(puts)
				if test.retried {
					want = []int{1, 1, 1}
				}
				if (err == nil) != test.retried || !slices.Equal(puts, want) {
					t.Errorf("sent %v times, %v", puts, err)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("another node was asked only after %s", took)
				}
			})
		})
	}
}

// pipes serves handlers on connections in memory, for virtual time.
type pipes struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
	far       map[int]time.Duration // how long it takes to reach the nodes, by number
}

type pipeListener struct {
	address string
	far     time.Duration
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.address) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

func (p *pipes) serve(h http.Handler) *httptest.Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	number := len(p.listeners)
	l := &pipeListener{address: fmt.Sprintf("10.0.0.%d:7820", number+1), far: p.far[number], conns: make(chan net.Conn), closed: make(chan struct{})}
	if p.listeners == nil {
		p.listeners = map[string]*pipeListener{}
	}
	p.listeners[l.address] = l
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, Protocols: new(http.Protocols)}}
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	return s
}

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	l := p.listeners[address]
	p.mu.Unlock()
	if l == nil {
		return nil, errors.New("nobody there")
	}
	timer := time.NewTimer(l.far)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func inVirtualTime(t *testing.T, nodes int, far map[int]time.Duration, test func(t *testing.T, cluster *fakeCluster, c *client.Client)) {
	synctest.Test(t, func(t *testing.T) {
		p := pipes{far: far}
		cluster := newFakeClusterOn(p.serve, nodes, 16)
		c, err := client.New(client.Options{Endpoints: cluster.endpoints(), Dial: p.dial})
		if err != nil {
			t.Fatal(err)
		}
		test(t, cluster, c)
		c.Close()
		cluster.close()
	})
}

func TestAwaitWriteWaits(t *testing.T) {
	const pending, committed = capstanv1.Fate_FATE_PENDING, capstanv1.Fate_FATE_COMMITTED
	t.Run("as long as it is told", func(t *testing.T) {
		inVirtualTime(t, 1, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			cluster.fates = []capstanv1.Fate{pending, pending, pending, committed}
			began := time.Now()
			r, err := c.AwaitWrite(t.Context(), "wr_k", 5*time.Minute) // longer than the client's timeout, and than a node waits
			if err != nil || r.Fate != committed || r.Version.Index != 1 || r.Message().GetServedBy() != "n1" {
				t.Fatalf("got %+v, %v", r, err)
			}
			if took := time.Since(began); took != time.Minute {
				t.Errorf("three waits took %s", took)
			}
		})
	})
	t.Run("and no longer", func(t *testing.T) {
		inVirtualTime(t, 1, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			began := time.Now()
			r, err := c.AwaitWrite(t.Context(), "wr_k", 50*time.Second)
			if err != nil || r.Fate != pending {
				t.Fatalf("got %+v, %v", r, err)
			}
			want := []time.Duration{20 * time.Second, 20 * time.Second, 10 * time.Second}
			if took := time.Since(began); took != 50*time.Second || !slices.Equal(cluster.nodes[0].waits, want) {
				t.Errorf("it took %s, in waits of %v", took, cluster.nodes[0].waits)
			}
		})
	})
	t.Run("not at all", func(t *testing.T) {
		inVirtualTime(t, 1, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			for _, wait := range []time.Duration{0, -time.Second} {
				if r, err := c.AwaitWrite(t.Context(), "wr_k", wait); err != nil || r.Fate != pending {
					t.Fatalf("got %+v, %v", r, err)
				}
			}
			if n := cluster.nodes[0].count("await"); n != 2 {
				t.Errorf("asked %d times for two answers", n)
			}
		})
	})
	t.Run("but asks a node that does not wait only once", func(t *testing.T) {
		inVirtualTime(t, 1, nil, func(t *testing.T, cluster *fakeCluster, c *client.Client) {
			cluster.hasty = true
			if r, err := c.AwaitWrite(t.Context(), "wr_k", time.Hour); err != nil || r.Fate != pending {
				t.Fatalf("got %+v, %v", r, err)
			}
			if n := cluster.nodes[0].count("await"); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	})
	t.Run("within its context", func(t *testing.T) {
		inVirtualTime(t, 1, nil, func(t *testing.T, _ *fakeCluster, c *client.Client) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := c.AwaitWrite(ctx, "wr_k", time.Minute)
			if e := asError(t, err); e.Code != connect.CodeDeadlineExceeded || !client.IsNotApplied(err) {
				t.Errorf("got %+v", e)
			}
		})
	})
}

func TestConflicts(t *testing.T) {
	cluster, c := start(t, 1)
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, key := range []string{"cart:42", "note:7", "note:8"} {
		cluster.conflicts = append(cluster.conflicts, &capstanv1.Conflict{
			Key: []byte(key), LosingValue: []byte("plum"), LosingVersion: &capstanv1.Version{Timestamp: 5, Node: "n3-aaaa"},
			WinningVersion: &capstanv1.Version{Index: 14, Timestamp: 4, Node: "n1-aaaa"}, Time: timestamppb.New(at),
			Cause: capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE, LosingBase: 13, LosingDelete: key == "note:8",
		})
	}
	collect := func(opts ...client.ConflictsOption) (all []client.Conflict, err error) {
		for one, err := range c.Conflicts(t.Context(), opts...) {
			if err != nil {
				return all, err
			}
			all = append(all, one)
		}
		return all, nil
	}
	all, err := collect()
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v", all, err)
	}
	if one := all[0]; string(one.Key) != "cart:42" || string(one.LosingValue) != "plum" || one.LosingVersion.String() != "0-5-n3-aaaa" ||
		one.WinningVersion.String() != "14-4-n1-aaaa" || !one.Time.Equal(at) || one.LosingBase != 13 || one.LosingDelete || one.Cause != capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE {
		t.Errorf("got %+v", one)
	}
	if !all[2].LosingDelete {
		t.Error("a delete that lost looks like a value")
	}
	if some, err := collect(client.Prefix([]byte("note:"))); err != nil || len(some) != 2 {
		t.Errorf("got %v, %v", some, err)
	}
	if some, err := collect(client.Limit(1), client.Via("n1")); err != nil || len(some) != 1 {
		t.Errorf("got %v, %v", some, err)
	}
	for range c.Conflicts(t.Context()) {
		break // leaving early is fine
	}
	cluster.nodes[0].failWith(func(op string) error {
		if op == "conflict" {
			return failure(connect.CodeUnavailable, "stopping", notApplied(capstanv1.Reason_REASON_STOPPING))
		}
		return nil
	})
	if some, err := collect(); len(some) != 1 || !errors.Is(err, client.ErrIncomplete) {
		t.Errorf("a list that breaks off: %v, %v", some, err)
	}
}

func TestCutsGoToTheNodeNamed(t *testing.T) {
	cluster, c := start(t, 3)
	if err := c.SetCut(t.Context(), "n2", []string{"n1", "n3"}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "n1 n3", ""} {
		nodes, err := c.GetCut(t.Context(), cluster.nodes[i].server.URL)
		if err != nil || strings.Join(nodes, " ") != want {
			t.Errorf("n%d is cut from %q, %v", i+1, nodes, err)
		}
	}
	if err := c.SetCut(t.Context(), "n2", nil); err != nil {
		t.Fatal(err)
	}
	if nodes, err := c.GetCut(t.Context(), "n2"); err != nil || len(nodes) != 0 {
		t.Errorf("healed, n2 is cut from %q, %v", nodes, err)
	}
	if err := c.SetCut(t.Context(), "", []string{"n1"}); err == nil || !client.IsNotApplied(err) {
		t.Errorf("a cut at no node in particular: %v", err)
	}
	if _, err := c.GetCut(t.Context(), ""); err == nil {
		t.Error("the cut of no node in particular was told")
	}
	if n := cluster.counts("set cut"); !slices.Equal(n, []int{0, 2, 0}) {
		t.Errorf("cuts were set so often: %v", n)
	}
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/jepsen/contract"
)

const (
	// mixedKeys are few, so that clients meet, and enough for a checker that can
	// cope with some hundred operations a key.
	mixedKeys = 24
	// mixedPause keeps the history at a length that can be checked.
	mixedPause = 5 * time.Millisecond
	// mixedTimeout of a request: a session whose past is across the cut waits for
	// it that long.
	mixedTimeout = time.Second
	// mixedBound is the bound of bounded reads: some of them outlive a cut.
	mixedBound = 3 * time.Second
)

// mixed is clients that mix all levels on few keys, and all that they were
// answered. At each node one stays, without a session, and one begins that goes
// from node to node with its session.
type mixed struct {
	c     *cluster
	ids   map[string]string // of nodes, by name
	began time.Time
	stop  chan struct{}
	done  sync.WaitGroup
	gate  sync.RWMutex // held by an operation under way

	processes atomic.Int64

	mu      sync.Mutex
	ops     []contract.Op
	refused []refusal // linearizable requests of those who stay
	tally   map[mixedTally]int
}

// mixedTally is what is counted of those who stay.
type mixedTally struct {
	node    string
	level   contract.Level
	outcome contract.Outcome
}

type refusal struct {
	node   string
	at     time.Duration
	took   time.Duration
	reason capstanv1.Reason
}

func startMixed(c *cluster) *mixed {
	c.t.Helper()
	m := &mixed{c: c, ids: map[string]string{}, began: time.Now(), stop: make(chan struct{}), tally: map[mixedTally]int{}}
	status, err := c.nodes[0].status()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range status.GetNodes() {
		m.ids[n.GetName()] = n.GetId()
	}
	for i, n := range c.nodes {
		stays, err := client.New(client.Options{Endpoints: c.urls(), NoSession: true})
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = stays.Close() })
		goes := c.client(nil)
		m.done.Go(func() { m.work(stays, fmt.Sprint("stays", i), "", func() *serving { return n }) })
		m.done.Go(func() {
			m.work(goes, fmt.Sprint("goes", i), fmt.Sprint("session ", i), func() *serving { return c.nodes[rand.IntN(len(c.nodes))] })
		})
	}
	c.t.Cleanup(m.end)
	return m
}

// end stops the clients and waits for them.
func (m *mixed) end() {
	select {
	case <-m.stop:
	default:
		close(m.stop)
	}
	m.done.Wait()
}

// quietly runs f while no client asks anything.
func (m *mixed) quietly(f func()) {
	m.gate.Lock()
	defer m.gate.Unlock()
	f()
}

func (m *mixed) work(asked *client.Client, name, session string, at func() *serving) {
	process := int(m.processes.Add(1))
	for i := 0; ; i++ {
		select {
		case <-m.stop:
			return
		default:
		}
		op := contract.Op{Process: process, Session: session, Key: fmt.Sprint("mix/", rand.IntN(mixedKeys)), Value: fmt.Sprintf("%s.%d", name, i)}
		switch dice := rand.IntN(100); {
		case dice < 40:
			op.Level, op.Kind = contract.Eventual, contract.Put
		case dice < 44:
			op.Level, op.Kind = contract.Eventual, contract.Delete
		case dice < 56:
			op.Level, op.Kind = contract.Eventual, contract.Get
		case dice < 74:
			op.Level, op.Kind = contract.Linearizable, contract.Put
		case dice < 77:
			op.Level, op.Kind = contract.Linearizable, contract.Delete
		case dice < 92:
			op.Level, op.Kind = contract.Linearizable, contract.Get
		default:
			op.Level, op.Kind, op.MaxStaleness = contract.Bounded, contract.Get, mixedBound
		}
		if op.Kind != contract.Put {
			op.Value = ""
		}
		m.gate.RLock()
		err := m.do(asked, at(), &op)
		m.gate.RUnlock()
		if op.Outcome == contract.Unknown {
			process = int(m.processes.Add(1))
		}
		if err != nil && !client.IsNotApplied(err) && !client.IsOutcomeUnknown(err) {
			m.c.t.Errorf("%v: %v", op, err)
		}
		time.Sleep(mixedPause)
	}
}

// do carries out an operation at a node and keeps what it gave.
func (m *mixed) do(asked *client.Client, n *serving, op *contract.Op) error {
	op.Node = m.ids[n.name]
	ctx, cancel := context.WithTimeout(context.Background(), mixedTimeout)
	defer cancel()
	key, via := []byte(op.Key), client.Via(n.url())
	level := client.Linearizable()
	if op.Level == contract.Eventual {
		level = client.Eventual()
	}
	var err error
	op.Invoke = time.Since(m.began)
	switch op.Kind {
	case contract.Get:
		var read client.GetOption = level
		if op.Level == contract.Bounded {
			read = client.Bounded(op.MaxStaleness)
		}
		var r *client.GetResult
		if r, err = asked.Get(ctx, key, read, via); err == nil {
			op.Found, op.Value, op.Version = r.Found, string(r.Value), contract.Version(r.Version)
			op.Tentative, op.Staleness = r.Freshness.Tentative, r.Freshness.Staleness
		}
	case contract.Put:
		var r *client.PutResult
		if r, err = asked.Put(ctx, key, []byte(op.Value), level, via); err == nil {
			op.Version, op.Receipt, op.Base = contract.Version(r.Version), r.Receipt, r.Base
		}
	case contract.Delete:
		var r *client.DeleteResult
		if r, err = asked.Delete(ctx, key, level, via); err == nil {
			op.Version, op.Receipt, op.Base = contract.Version(r.Version), r.Receipt, r.Base
		}
	}
	op.Return = time.Since(m.began)
	var e *client.Error
	if errors.As(err, &e) {
		op.Receipt = e.Receipt
		op.Outcome = contract.Failed
		if client.IsOutcomeUnknown(err) {
			op.Outcome = contract.Unknown
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.Kind != contract.Get || op.Outcome == contract.OK {
		m.ops = append(m.ops, *op)
	}
	if op.Session == "" {
		m.tally[mixedTally{n.name, op.Level, op.Outcome}]++
		if e != nil && op.Level == contract.Linearizable && op.Outcome == contract.Failed {
			m.refused = append(m.refused, refusal{n.name, op.Invoke, op.Return - op.Invoke, e.Reason})
		}
	}
	return err
}

// more is how often something is to be seen at nodes.
type more struct {
	nodes   []*serving
	level   contract.Level
	outcome contract.Outcome
	count   int
}

// until waits for all of that, from now on.
func (m *mixed) until(all ...more) {
	m.c.t.Helper()
	m.mu.Lock()
	before := maps.Clone(m.tally)
	m.mu.Unlock()
	m.c.until("requests of all levels", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, want := range all {
			for _, n := range want.nodes {
				is := mixedTally{n.name, want.level, want.outcome}
				if got := m.tally[is] - before[is]; got < want.count {
					return fmt.Errorf("%s: %d of %d requests of level %d with outcome %d", n.name, got, want.count, want.level, want.outcome)
				}
			}
		}
		return nil
	})
}

// now is a moment of the history.
func (m *mixed) now() time.Duration { return time.Since(m.began) }

// minority checks what a node that is cut off from all others answered to
// linearizable requests between two moments: no, and at once.
func (m *mixed) minority(n *serving, from, to time.Duration) {
	m.c.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range m.ops {
		if op.Node == m.ids[n.name] && op.Level == contract.Linearizable && op.Outcome == contract.OK && op.Invoke > from && op.Return < to {
			m.c.t.Errorf("answered in the minority: %v", op)
		}
	}
	var times []time.Duration
	for _, r := range m.refused {
		if r.node != n.name || r.at < from || r.at+r.took > to {
			continue
		}
		times = append(times, r.took)
		if r.reason != capstanv1.Reason_REASON_NO_QUORUM {
			m.c.t.Errorf("%s refuses with %s", n.name, r.reason)
		}
	}
	slices.Sort(times)
	if len(times) == 0 {
		m.c.t.Fatalf("%s refused nothing", n.name)
	}
	median := times[len(times)/2]
	m.c.t.Logf("%s refused %d linearizable requests, half of them within %s, all within %s", n.name, len(times), median.Round(time.Microsecond), times[len(times)-1].Round(time.Microsecond))
	if median > mixedTimeout/4 {
		m.c.t.Errorf("%s is slow to say no: half of its refusals took more than %s", n.name, median)
	}
}

// check ends the load in a cluster that is whole again, asks what became of
// everything, and judges the history by the contract.
func (m *mixed) check() {
	t := m.c.t
	t.Helper()
	m.end()
	asked, err := client.New(client.Options{Endpoints: m.c.urls(), NoSession: true})
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	end := &contract.End{Fates: m.fates(asked)}
	end.Conflicts = m.conflicts()

	// What is read in the end is the same everywhere, at each level. A
	// linearizable read brings the replica here up to date.
	for i := range mixedKeys {
		var values []string
		for _, n := range m.c.nodes {
			for _, level := range []contract.Level{contract.Linearizable, contract.Eventual} {
				op := contract.Op{Process: int(m.processes.Add(1)), Kind: contract.Get, Key: fmt.Sprint("mix/", i), Level: level}
				m.c.until("a read at "+n.name, func() error { return m.do(asked, n, &op) })
				values = append(values, fmt.Sprint(op.Found, op.Value, op.Version))
			}
		}
		if len(slices.Compact(values)) != 1 {
			t.Errorf("mix/%d differs: %q", i, values)
		}
	}

	var acked, unknown int
	for _, op := range m.ops {
		if op.Level == contract.Eventual && op.Kind != contract.Get {
			switch op.Outcome {
			case contract.OK:
				acked++
			case contract.Unknown:
				unknown++
			}
		}
	}
	count := map[contract.FateKind]int{}
	for _, f := range end.Fates {
		count[f.Kind]++
	}
	t.Logf("%d operations; eventual writes: %d acknowledged, %d of unknown outcome, %d committed, %d superseded; %d conflicts",
		len(m.ops), acked, unknown, count[contract.Committed], count[contract.Superseded], len(end.Conflicts))
	if count[contract.Superseded] == 0 || len(end.Conflicts) == 0 {
		t.Error("nothing lost to anything: this shows little")
	}
	found := contract.Check(&contract.History{Ops: m.ops, End: end}, clusterPatience)
	for i, v := range found {
		if i == 5 {
			t.Errorf("and %d more", len(found)-5)
			break
		}
		t.Error(v)
	}
}

// fates asks what became of every eventual write that has a receipt.
func (m *mixed) fates(asked *client.Client) map[string]contract.Fate {
	t := m.c.t
	t.Helper()
	work := make(chan string, len(m.ops))
	for _, op := range m.ops {
		if op.Receipt != "" {
			work <- op.Receipt
		}
	}
	close(work)
	var mu sync.Mutex
	fates := map[string]contract.Fate{}
	ask := func() {
		for receipt := range work {
			fate, err := asked.AwaitWrite(context.Background(), receipt, clusterPatience)
			if err != nil {
				t.Errorf("fate of %s: %v", receipt, err)
				continue
			}
			mu.Lock()
			fates[receipt] = contract.Fate{Kind: contract.FateKind(fate.Fate), Version: contract.Version(fate.Version)}
			mu.Unlock()
		}
	}
	together(ask, ask, ask, ask)
	return fates
}

// conflicts are the lists of all partitions, once each node shows the same.
func (m *mixed) conflicts() (found []contract.Conflict) {
	m.c.t.Helper()
	m.c.until("the same conflicts everywhere", func() error {
		var shown []string
		for _, n := range m.c.nodes {
			list, err := listConflicts(m.c.t, n)
			if err != nil {
				return err
			}
			found = list
			shown = append(shown, fmt.Sprint(list))
		}
		if len(slices.Compact(shown)) != 1 {
			return errors.New("they differ")
		}
		return nil
	})
	return found
}

// listConflicts is the list as one node has it.
func listConflicts(t *testing.T, n *serving) (found []contract.Conflict, err error) {
	t.Helper()
	asked := n.c.client(n)
	ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
	defer cancel()
	for c, err := range asked.Conflicts(ctx) {
		if err != nil {
			return nil, err
		}
		found = append(found, contract.Conflict{
			Key: string(c.Key), Value: string(c.LosingValue), Delete: c.LosingDelete, Losing: contract.Version(c.LosingVersion),
			Winning: contract.Version(c.WinningVersion), StaleBase: c.Cause == capstanv1.ConflictCause_CONFLICT_CAUSE_STALE_BASE,
		})
	}
	if !slices.IsSortedFunc(found, func(a, b contract.Conflict) int { return strings.Compare(a.Key, b.Key) }) {
		t.Errorf("conflicts are not in the order of keys: %v", found)
	}
	return found, nil
}

//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/api/client"
)

// outcome is what a writer was told.
type outcome uint8

const (
	unknown      outcome = iota // applied, or not, or not yet
	acknowledged                // applied, and it must stay
	refused                     // not applied, now and for ever
)

// write is one write of a load. Its value is its own, so that who reads it
// knows which write that was.
type write struct {
	key, value string
	on         string // conditional: the value that it was to replace, "" for none
	version    client.Version
	outcome    outcome
	err        error
	took       time.Duration
}

// load is concurrent writers that note what they were told.
//
// Each writes keys of its own, once each, and in turns with that takes part in
// chains: keys that all writers share, where a write replaces exactly what its
// writer has read. The writes of a chain that took effect are a list from the
// last to the first, each naming what it replaced.
type load struct {
	c      *cluster
	chains int
	stop   chan struct{}
	done   sync.WaitGroup

	acks atomic.Int64

	mu     sync.Mutex
	single []*write
	chain  map[string]*write // by value
}

// loadPause keeps a writer whose node is down from spinning.
const loadPause = 10 * time.Millisecond

// startLoad begins with a writer for each node alone and as many that go
// wherever the ring says.
func startLoad(c *cluster) *load {
	c.t.Helper()
	l := &load{c: c, chains: 4, stop: make(chan struct{}), chain: map[string]*write{}}
	for i := range 2 * len(c.nodes) {
		var via *serving
		if i < len(c.nodes) {
			via = c.nodes[i]
		}
		asked := c.client(via)
		l.done.Go(func() { l.writer(i, asked) })
	}
	c.t.Cleanup(func() { l.end() })
	return l
}

// end stops the writers and waits for them.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.done.Wait()
}

// untilAcks waits until n more writes have been acknowledged: the load goes on
// now, whatever happened before.
func (l *load) untilAcks(n int) {
	l.c.t.Helper()
	goal := l.acks.Load() + int64(n)
	l.c.until(fmt.Sprintf("%d more writes", n), func() error {
		if at := l.acks.Load(); at < goal {
			return fmt.Errorf("%d are missing", goal-at)
		}
		return nil
	})
}

func (l *load) writer(id int, asked *client.Client) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		w := &write{value: fmt.Sprintf("%d.%d", id, i)}
		if i%2 == 0 {
			w.key = fmt.Sprintf("single/%d/%d", id, i)
			l.put(asked, w)
			l.mu.Lock()
			l.single = append(l.single, w)
			l.mu.Unlock()
		} else {
			w.key = fmt.Sprintf("chain/%d", (i/2+id)%l.chains)
			if !l.link(asked, w) {
				time.Sleep(loadPause)
				continue
			}
		}
		if w.outcome != acknowledged {
			time.Sleep(loadPause)
		}
	}
}

// link puts a write of a chain in the place of what is there.
func (l *load) link(asked *client.Client, w *write) bool {
	ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
	defer cancel()
	got, err := asked.Get(ctx, []byte(w.key))
	if err != nil {
		return false
	}
	condition := client.IfAbsent()
	if got.Found {
		w.on, condition = string(got.Value), client.IfVersion(got.Version)
	}
	l.put(asked, w, condition)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chain[w.value] = w
	return true
}

func (l *load) put(asked *client.Client, w *write, opts ...client.WriteOption) {
	ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
	defer cancel()
	began := time.Now()
	put, err := asked.Put(ctx, []byte(w.key), []byte(w.value), opts...)
	w.took, w.err = time.Since(began), err
	switch {
	case err == nil:
		w.outcome, w.version = acknowledged, put.Version
		l.acks.Add(1)
	case client.IsNotApplied(err):
		w.outcome = refused
	default:
		w.outcome = unknown
	}
}

// longest is the longest time that an acknowledged write took.
func (l *load) longest() time.Duration {
	var d time.Duration
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.single {
		if w.outcome == acknowledged {
			d = max(d, w.took)
		}
	}
	return d
}

// check reads everything back through every node.
func (l *load) check() {
	t := l.c.t
	t.Helper()
	l.end()
	var counts [3]int
	for _, w := range l.single {
		counts[w.outcome]++
	}
	for _, w := range l.chain {
		counts[w.outcome]++
	}
	t.Logf("%d writes acknowledged, %d refused, %d of unknown outcome; the slowest of the acknowledged took %s",
		counts[acknowledged], counts[refused], counts[unknown], l.longest().Round(time.Millisecond))
	if counts[acknowledged] == 0 {
		t.Error("no write was acknowledged: this shows nothing")
	}
	l.settle()
	// Nothing writes any more: what is read through one node is what is read
	// through the next.
	seen := make(map[string]client.Version)
	found := make(map[string]string)
	for i, n := range l.c.nodes {
		states := l.readAll(n)
		for key, e := range states {
			if i == 0 {
				seen[key], found[key] = e.Version, string(e.Value)
			} else if seen[key] != e.Version || found[key] != string(e.Value) {
				t.Errorf("%s through %s: %q at %s, through %s: %q at %s", key, n.name, e.Value, e.Version, l.c.nodes[0].name, found[key], seen[key])
			}
		}
		if i > 0 && len(states) != len(seen) {
			t.Errorf("through %s %d keys, through %s %d", n.name, len(states), l.c.nodes[0].name, len(seen))
		}
	}
	for _, w := range l.single {
		value, there := found[w.key]
		switch {
		case w.outcome == acknowledged && !there:
			t.Errorf("%s: acknowledged at %s and lost", w.key, w.version)
		case w.outcome == acknowledged && (value != w.value || seen[w.key] != w.version):
			t.Errorf("%s: acknowledged %q at %s, found %q at %s", w.key, w.value, w.version, value, seen[w.key])
		case w.outcome == refused && there:
			t.Errorf("%s: refused (%v), yet found %q at %s", w.key, w.err, value, seen[w.key])
		case w.outcome == unknown && there && value != w.value:
			t.Errorf("%s: wrote %q, found %q", w.key, w.value, value)
		}
	}
	for i := range l.chains {
		key := fmt.Sprintf("chain/%d", i)
		l.checkChain(t, key, found[key], seen[key])
	}
}

// settle overtakes the writes of unknown outcome that may still wait in a
// leader's queue: it writes to every partition, behind them.
func (l *load) settle() {
	l.c.t.Helper()
	asked := l.c.client(nil)
	var ops []client.Op
	for i := range settleKeys {
		ops = append(ops, client.PutOp([]byte(fmt.Sprint(settlePrefix, i)), nil))
	}
	l.c.until("a write to every partition", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
		defer cancel()
		done, err := asked.Batch(ctx, ops)
		if err != nil {
			return err
		}
		for _, r := range done.Results {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	})
}

const (
	settlePrefix = "settle/"
	// settleKeys miss one of 16 partitions once in a hundred thousand tests, and
	// then nothing is lost but the order.
	settleKeys = 220
)

// checkChain follows a chain from its end to its beginning: each link must be a
// write that was not refused, and each acknowledged write must be a link.
func (l *load) checkChain(t *testing.T, key, value string, version client.Version) {
	t.Helper()
	missing := make(map[string]bool)
	for v, w := range l.chain {
		if w.key == key && w.outcome == acknowledged {
			missing[v] = true
		}
	}
	links := 0
	for value != "" {
		w := l.chain[value]
		if w == nil || w.key != key {
			t.Fatalf("%s: %q is in the chain and nobody wrote it there", key, value)
		}
		if w.outcome == refused {
			t.Errorf("%s: %q is in the chain though it was refused: %v", key, value, w.err)
		}
		if w.outcome == acknowledged {
			if version != (client.Version{}) && w.version != version {
				t.Errorf("%s: %q was acknowledged at %s, found at %s", key, value, w.version, version)
			}
			if on := l.chain[w.on]; on != nil && on.outcome == acknowledged && on.version.Index > w.version.Index {
				t.Errorf("%s: %s replaced %s", key, w.version, on.version)
			}
		}
		delete(missing, value)
		if links++; links > len(l.chain) {
			t.Fatalf("%s: the chain bites its tail", key)
		}
		value, version = w.on, client.Version{}
	}
	if len(missing) > 0 {
		t.Errorf("%s: %d acknowledged writes are not in the chain of %d: %v", key, len(missing), links, missing)
	}
	t.Logf("%s: %d links", key, links)
}

// readAll is every key as linearizable reads through n see it: single reads of
// what was written, and a scan that must agree.
func (l *load) readAll(n *serving) map[string]client.Entry {
	t := l.c.t
	t.Helper()
	asked := l.c.client(n)
	keys := make(map[string]bool)
	for _, w := range l.single {
		keys[w.key] = true
	}
	for i := range l.chains {
		keys[fmt.Sprintf("chain/%d", i)] = true
	}
	work := make(chan string, len(keys))
	for k := range keys {
		work <- k
	}
	close(work)
	var mu sync.Mutex
	got := make(map[string]client.Entry)
	reader := func() {
		for key := range work {
			r, err := read(asked, key)
			if err != nil {
				t.Errorf("read of %s through %s: %v", key, n.name, err)
				return
			}
			if r.Found {
				mu.Lock()
				got[key] = client.Entry{Key: []byte(key), Value: r.Value, Version: r.Version}
				mu.Unlock()
			}
		}
	}
	together(reader, reader, reader, reader)
	ctx, cancel := context.WithTimeout(context.Background(), clusterPatience)
	defer cancel()
	scanned := 0
	for e, err := range asked.Scan(ctx) {
		if err != nil {
			t.Errorf("scan through %s: %v", n.name, err)
			return got
		}
		if strings.HasPrefix(string(e.Key), settlePrefix) {
			continue
		}
		if scanned++; got[string(e.Key)].Version != e.Version {
			t.Errorf("%s through %s: scanned at %s, read at %s", e.Key, n.name, e.Version, got[string(e.Key)].Version)
		}
	}
	if scanned != len(got) {
		t.Errorf("through %s %d keys were scanned, %d read", n.name, scanned, len(got))
	}
	return got
}

// read tries again until clusterPatience is over: a refusal is no answer here.
func read(asked *client.Client, key string) (r *client.GetResult, err error) {
	for end := time.Now().Add(clusterPatience); time.Now().Before(end); time.Sleep(poll) {
		ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
		r, err = asked.Get(ctx, []byte(key))
		cancel()
		if err == nil {
			return r, nil
		}
	}
	return nil, err
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-kv/capstan/api/client"
)

// register is one key to porcupine. Every write has a value of its own, so a
// value stands for a version; "" is an absent key.
//
// A write whose outcome is unknown returns at the end of time: it may have
// happened at any moment after it began, or, behind everything else, never.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Input.(asked).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, is := input.(asked), output.(told), state.(string)
		if in.kind == "get" {
			return out.value == is, is
		}
		holds := in.kind != "replace" || in.on == is
		switch {
		case out.unknown && holds:
			return true, in.value
		case out.unknown:
			return true, is
		case out.failed: // the condition
			return !holds, is
		}
		return holds, in.value
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
}

// asked is an operation: get, put, delete, or replace, which is a put on
// condition that the key holds on.
type asked struct{ kind, key, on, value string }

// told is its answer.
type told struct {
	value           string // of a get
	failed, unknown bool
}

func (a asked) String() string {
	switch a.kind {
	case "get", "delete":
		return fmt.Sprintf("%s(%s)", a.kind, a.key)
	case "replace":
		return fmt.Sprintf("replace(%s, %q, %q)", a.key, a.on, a.value)
	}
	return fmt.Sprintf("put(%s, %q)", a.key, a.value)
}

func (o told) String() string {
	switch {
	case o.unknown:
		return "unknown"
	case o.failed:
		return "condition failed"
	}
	return fmt.Sprintf("ok %q", o.value)
}

// The checker must be able to say no.
func TestClusterRegisterModel(t *testing.T) {
	t.Parallel()
	put := func(value string, call, end int64, unknown bool) porcupine.Operation {
		return porcupine.Operation{Input: asked{kind: "put", key: "k", value: value}, Output: told{unknown: unknown}, Call: call, Return: end}
	}
	get := func(value string, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: asked{kind: "get", key: "k"}, Output: told{value: value}, Call: call, Return: end}
	}
	replace := func(on, value string, failed bool, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: asked{"replace", "k", on, value}, Output: told{failed: failed}, Call: call, Return: end}
	}
	tests := []struct {
		name    string
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		{"in order", []porcupine.Operation{put("a", 1, 2, false), get("a", 3, 4)}, porcupine.Ok},
		{"stale", []porcupine.Operation{put("a", 1, 2, false), put("b", 3, 4, false), get("a", 5, 6)}, porcupine.Illegal},
		{"unknown, happened late", []porcupine.Operation{put("a", 1, 2, false), put("b", 3, math.MaxInt64, true), get("a", 5, 6), get("b", 7, 8)}, porcupine.Ok},
		{"unknown, went back", []porcupine.Operation{put("a", 1, 2, false), put("b", 3, math.MaxInt64, true), get("b", 5, 6), get("a", 7, 8)}, porcupine.Illegal},
		{"two took the same place", []porcupine.Operation{put("a", 1, 2, false), replace("a", "b", false, 3, 9), replace("a", "c", false, 3, 9)}, porcupine.Illegal},
		{"one of two", []porcupine.Operation{put("a", 1, 2, false), replace("a", "b", false, 3, 9), replace("a", "c", true, 3, 9)}, porcupine.Ok},
		{"refused for no reason", []porcupine.Operation{put("a", 1, 2, false), replace("a", "c", true, 3, 9)}, porcupine.Illegal},
	}
	for _, test := range tests {
		if got := porcupine.CheckOperationsTimeout(register, test.history, clusterPatience); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

const (
	registerKeys   = 8
	opsPerKey      = 220                   // more make the search long
	historyPace    = 10 * time.Millisecond // so that it spans several disturbances
	refusedPace    = 50 * time.Millisecond
	historyTimeout = 2 * time.Second
)

// recorder keeps what clients asked and were told.
type recorder struct {
	began time.Time

	mu      sync.Mutex
	clients int
	count   map[string]int
	history []porcupine.Operation
	told    map[string]client.Version // by value: everybody must be told the same
	clashes []string
}

// process is a client id in the history: one operation at a time.
func (r *recorder) process() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients++
	return r.clients - 1
}

// take counts one more operation on one of the keys that have not had all of
// theirs; false if there is none.
func (r *recorder) take(random *rand.Rand) (key string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var open []string
	for i := range registerKeys {
		if key := fmt.Sprintf("r%d", i); r.count[key] < opsPerKey {
			open = append(open, key)
		}
	}
	if len(open) == 0 {
		return "", false
	}
	key = open[random.IntN(len(open))]
	r.count[key]++
	return key, true
}

// giveBack makes room for another operation: the last one is no part of history.
func (r *recorder) giveBack(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count[key]--
}

func (r *recorder) now() int64 { return int64(time.Since(r.began)) }

func (r *recorder) add(op porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, op)
}

func (r *recorder) version(value string, v client.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.told[value]; ok && was != v {
		r.clashes = append(r.clashes, fmt.Sprintf("%q is at %s and at %s", value, was, v))
	}
	r.told[value] = v
}

// clientOf does operations on random keys until all keys have had theirs.
func (r *recorder) clientOf(c *client.Client, name int) {
	random := rand.New(rand.NewPCG(uint64(name), 1))
	id := r.process()
	last := make(map[string]*client.GetResult) // what this client read
	for i := 0; ; i++ {
		key, ok := r.take(random)
		if !ok {
			return
		}
		in := asked{key: key, value: fmt.Sprintf("%d.%d", name, i)}
		switch n := random.IntN(20); {
		case n < 8:
			in.kind, in.value = "get", ""
		case n < 9:
			in.kind, in.value = "delete", ""
		case n < 13 && last[key] != nil:
			in.kind = "replace"
			in.on = string(last[key].Value)
		default:
			in.kind = "put"
		}
		call := r.now()
		out, err := r.do(c, in, last)
		end := r.now()
		if err != nil && (in.kind == "get" || client.IsNotApplied(err) && !errors.Is(err, client.ErrConditionFailed)) {
			r.giveBack(key) // nothing happened
			time.Sleep(refusedPace)
			continue
		}
		if out.unknown {
			end = math.MaxInt64
		}
		r.add(porcupine.Operation{ClientId: id, Input: in, Output: out, Call: call, Return: end})
		if out.unknown {
			id = r.process() // the old one is busy for ever
		}
		time.Sleep(historyPace)
	}
}

func (r *recorder) do(c *client.Client, in asked, last map[string]*client.GetResult) (out told, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), historyTimeout)
	defer cancel()
	key := []byte(in.key)
	switch in.kind {
	case "get":
		got, err := c.Get(ctx, key)
		if err != nil {
			return told{}, err
		}
		if got.Found {
			r.version(string(got.Value), got.Version)
		}
		last[in.key] = got
		return told{value: string(got.Value)}, nil
	case "delete":
		_, err = c.Delete(ctx, key)
	default:
		var opts []client.WriteOption
		if in.kind == "replace" {
			condition := client.IfAbsent()
			if was := last[in.key]; was.Found {
				condition = client.IfVersion(was.Version)
			}
			opts = append(opts, condition)
		}
		var put *client.PutResult
		if put, err = c.Put(ctx, key, []byte(in.value), opts...); err == nil {
			r.version(in.value, put.Version)
		}
	}
	return told{failed: errors.Is(err, client.ErrConditionFailed), unknown: err != nil && !client.IsNotApplied(err)}, err
}

func TestClusterLinearizable(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	r := &recorder{began: time.Now(), count: map[string]int{}, told: map[string]client.Version{}}
	var clients sync.WaitGroup
	for i := range 9 {
		var via *serving
		if i < 6 {
			via = c.nodes[i%3]
		}
		asked := c.client(via)
		clients.Go(func() { r.clientOf(asked, i) })
	}
	over := make(chan struct{})
	go func() {
		clients.Wait()
		close(over)
	}()
	kills, transfers := disturb(c, over)
	<-over
	t.Logf("%d operations of %d clients, %d nodes killed, %d leaders moved", len(r.history), r.clients, kills, transfers)
	if kills == 0 || transfers == 0 {
		t.Error("nothing happened to the cluster: this shows nothing")
	}
	for _, clash := range r.clashes {
		t.Error(clash)
	}
	// Unknown, too, is a failure.
	result, info := porcupine.CheckOperationsVerbose(register, r.history, clusterPatience)
	if result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", result)
		r.keep(t, info)
	}
}

// disturb kills and restarts nodes and moves leaders until over.
func disturb(c *cluster, over <-chan struct{}) (kills, transfers int) {
	isOver := func() bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	mover := c.client(nil)
	for !isOver() {
		for range 4 {
			ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
			located, err := mover.Locate(ctx, fmt.Appendf(nil, "r%d", random.IntN(registerKeys)))
			if err == nil {
				_, err = mover.TransferLeadership(ctx, located.GetPartition(), c.nodes[random.IntN(3)].name)
			}
			cancel()
			if err == nil {
				transfers++
			}
		}
		victim, err := c.leader(c.nodes[random.IntN(3)], fmt.Sprintf("r%d", random.IntN(registerKeys)))
		if err != nil || isOver() {
			continue
		}
		victim.kill()
		kills++
		other := c.nodes[0]
		if other == victim {
			other = c.nodes[1]
		}
		c.until("others lead", func() error {
			for i := range registerKeys {
				if n, err := c.leader(other, fmt.Sprintf("r%d", i)); err != nil || n == victim {
					return fmt.Errorf("r%d has no leader (%v)", i, err)
				}
			}
			return nil
		})
		victim.start()
		c.untilReady(victim)
	}
	return kills, transfers
}

// keep prints a history that is wrong and draws it.
func (r *recorder) keep(t *testing.T, info porcupine.LinearizationInfo) {
	slices.SortFunc(r.history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range r.history {
		t.Logf("%3d  %12d %20d  %v -> %v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("capstan-history-%d.html", os.Getpid()))
	if err := porcupine.VisualizePath(register, info, path); err != nil {
		t.Error(err)
		return
	}
	t.Logf("drawn in %s", path)
}

package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// defaultSeeds of TestReplicasAgreeWhateverIsDescheduled take a few seconds together.
// CAPSTAN_SEEDS sets another number; `make descheduled` runs two hundred.
const defaultSeeds = 6

// The library's goroutines lose the processor between any two steps, at the worst moment.
// Virtual time alone never shows that: it stands still while a goroutine could run. So a
// goroutine that prepares an append, or is about to store one, sleeps now and then, while
// leaders are cut off, come back and are replaced. All replicas apply the same entries,
// and every acknowledged write is among them.
func TestReplicasAgreeWhateverIsDescheduled(t *testing.T) {
	seeds := defaultSeeds
	if n, err := strconv.Atoi(os.Getenv("CAPSTAN_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { deschedule(t, uint64(seed)) })
		})
	}
}

func deschedule(t *testing.T, seed uint64) {
	c := newCluster(t, 3)
	defer c.close()
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	below := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	c.leader()
	for _, n := range c.nodes {
		n.machine.remember()
		n.store.fsync.Store(int64(2 * time.Millisecond))
		encoding := func() {
			if preparesAppend() && below(10) < 3 {
				time.Sleep(time.Duration(10+below(30)) * time.Millisecond)
			}
		}
		n.transport.encoding.Store(&encoding)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	acked := map[string]bool{}
	write := func(n *testNode, what string) {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if _, err := n.group.Propose(attempt, []byte(what)); err == nil {
			mu.Lock()
			acked[what] = true
			mu.Unlock()
		}
	}
	for _, n := range c.nodes {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				write(n, fmt.Sprintf("%s=%d", n.id, i))
				pause(ctx, nil, time.Duration(20+below(60))*time.Millisecond, 0)
			}
		})
	}
	const rounds = 25
	for round := range rounds {
		leader := c.leader()
		pause(ctx, nil, time.Duration(below(300))*time.Millisecond, 0)
		c.fabric.isolate(leader.id)
		for i := range 1 + below(3) { // entries that nobody else gets
			writers.Go(func() { write(leader, fmt.Sprintf("alone=%d.%d", round, i)) })
		}
		pause(ctx, nil, time.Duration(5+below(60))*time.Millisecond, 0)
		if below(4) == 0 {
			pause(ctx, nil, 3*time.Second, 0)
		}
		c.fabric.heal()
		c.others(leader)[below(2)].group.Campaign()
		pause(ctx, nil, time.Duration(below(400))*time.Millisecond, 0)
	}
	stop()
	writers.Wait()
	c.fabric.heal()
	var last *testNode
	c.eventually("a write is acknowledged", func() bool {
		last = c.leader()
		_, err := last.put("end", "1")
		return err == nil
	})
	c.eventually("all have applied everything", func() bool {
		for _, n := range c.nodes {
			if n.machine.get("end") != "1" {
				return false
			}
		}
		return true
	})
	history := last.machine.applied()
	committed := map[string]bool{}
	for _, entry := range history {
		for what := range strings.SplitSeq(entry, ";") {
			committed[what] = true
		}
	}
	for _, n := range c.others(last) {
		for index, what := range n.machine.applied() {
			if history[index] != what {
				t.Errorf("seed %d: entry %d is %q at %s and %q at %s", seed, index, what, n.id, history[index], last.id)
				break
			}
		}
	}
	for what := range acked {
		if !committed[what] {
			t.Errorf("seed %d: %q was acknowledged and is nowhere", seed, what)
		}
	}
}

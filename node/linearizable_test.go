package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-kv/capstan/partition"
)

// registerOp is an operation on a key as on a register.
type registerOp struct {
	key, value string
	write      bool
}

var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerOp).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		op := input.(registerOp)
		if op.write {
			return true, op.value
		}
		return output.(string) == state.(string), state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, output) },
}

// register collects what clients saw.
type register struct {
	mu      sync.Mutex
	start   time.Time
	ops     []porcupine.Operation
	used    map[string]int
	process int
	fates   [3]int
}

// A checker's time grows with the operations on one key, and with those of
// unknown outcome most of all.
const (
	opsPerKey     = 250
	forever       = int64(1) << 60
	checkPatience = 60 * time.Second // of the real clock
)

func (r *register) newProcess() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process++
	return r.process
}

func (r *register) take(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used[key]++
	return r.used[key] <= opsPerKey
}

// record keeps an operation, and gives the process that its client goes on as.
func (r *register) record(process int, op registerOp, began, ended time.Time, got string, f fate) int {
	r.mu.Lock()
	r.fates[f]++
	if f == done || f == unknown && op.write {
		o := porcupine.Operation{ClientId: process, Input: op, Output: got, Call: int64(began.Sub(r.start)), Return: int64(ended.Sub(r.start))}
		if f == unknown {
			o.Return = forever
		}
		r.ops = append(r.ops, o)
	}
	r.mu.Unlock()
	if f == unknown {
		return r.newProcess()
	}
	return process
}

// Clients on all nodes read and write a few keys, while links are cut (in one
// direction too), machines lose their power or are restarted, and leadership
// is handed around.
func TestLinearizable(t *testing.T) {
	for i := range seeds(6) {
		seed := firstSeed() + uint64(i)
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			history := &register{used: map[string]int{}}
			synctest.Test(t, func(t *testing.T) { disturbed(t, seed, history) })
			t.Logf("%d answered, %d refused, %d unknown", history.fates[done], history.fates[refused], history.fates[unknown])
			if history.fates[done] < 200 {
				t.Errorf("only %d operations were answered", history.fates[done])
			}
			result, _ := porcupine.CheckOperationsVerbose(registers, history.ops, checkPatience)
			if result != porcupine.Ok {
				var lines []string
				for _, op := range history.ops {
					lines = append(lines, fmt.Sprintf("%d [%d, %d] %+v -> %v", op.ClientId, op.Call, op.Return, op.Input, op.Output))
				}
				slices.Sort(lines)
				t.Errorf("%v:\n%s", result, strings.Join(lines, "\n"))
			}
		})
	}
}

func disturbed(t *testing.T, seed uint64, history *register) {
	const (
		virtual  = 40 * time.Second
		keyCount = 8
	)
	w := newWorld(t, 3, seed)
	defer w.close()
	w.formed()
	history.start = time.Now()
	var all sync.WaitGroup
	for client := range 8 {
		all.Go(func() {
			process := history.newProcess()
			for i := 0; time.Since(history.start) < virtual; i++ {
				time.Sleep(w.randomTime(250 * time.Millisecond))
				n := w.random(keyCount)
				op := registerOp{
					key: keyIn(partition.ID(n%4), 4, n), value: fmt.Sprintf("%d.%d", client, i), write: w.random(2) == 0,
				}
				m := w.machines[w.random(3)]
				if m.running() == nil || !history.take(op.key) {
					continue
				}
				began := time.Now()
				var got string
				var f fate
				if op.write {
					f, _ = m.putWithin(2*time.Second, op.key, op.value)
				} else {
					got, f, _ = m.getWithin(2*time.Second, op.key)
				}
				process = history.record(process, op, began, time.Now(), got, f)
			}
		})
	}
	all.Go(func() {
		for time.Since(history.start) < virtual {
			time.Sleep(w.randomTime(3 * time.Second))
			w.disturb()
		}
	})
	all.Wait()
	w.net.Heal()
	for _, m := range w.machines {
		if m.running() == nil {
			m.start()
		}
	}
	w.awaitReady(w.machines...)
	w.compareReplicas(w.machines...)
}

// disturb does one random harm to the cluster, and lasts as long as it.
func (w *world) disturb() {
	victim := w.machines[w.random(len(w.machines))]
	if w.random(3) > 0 { // leaders are where it hurts
		victim = w.leaderAmongRunning(partition.ID(w.random(4)), victim)
	}
	rest := w.others(victim)
	w.shuffle(rest)
	switch w.random(7) {
	case 0:
		w.net.Isolate(victim.host)
	case 1:
		w.net.CutOneWay(victim.host, rest[0].host)
	case 2:
		for _, m := range rest {
			w.net.CutOneWay(m.host, victim.host)
		}
	case 3:
		w.net.Cut(victim.host, rest[0].host)
	case 4:
		victim.crash([]int{0, 50, 100}[w.random(3)])
		if w.random(3) == 0 {
			rest[0].crash(0)
		}
	case 5:
		victim.stop()
	case 6:
		if p := victim.running(); p != nil {
			ctx, cancel := context.WithTimeout(context.Background(), requestTime)
			defer cancel()
			at := partition.ID(w.random(4))
			_, _ = route(ctx, p.router, at, transferCall(at, ""))
		}
		return
	}
	time.Sleep(w.randomTime(5 * time.Second))
	w.net.Heal()
	for _, m := range w.machines {
		if m.running() == nil {
			m.start()
		}
	}
}

func (w *world) leaderAmongRunning(p partition.ID, otherwise *machine) *machine {
	for _, m := range w.machines {
		if process := m.running(); process != nil {
			if here := process.replicas.replica(p); here != nil && here.group.Leads() {
				return m
			}
		}
	}
	return otherwise
}

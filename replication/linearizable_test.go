package replication

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
)

// kvOp is an operation on a register.
type kvOp struct {
	key, value string
	write      bool
}

var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		keys := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(kvOp).key
			keys[k] = append(keys[k], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range keys {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		op := input.(kvOp)
		if op.write {
			return true, op.value
		}
		return output.(string) == state.(string), state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, output) },
}

// Clients on every node read and write while leaders are isolated and killed.
func TestLinearizable(t *testing.T) {
	const (
		clients  = 6
		keys     = 4
		perKey   = 240
		virtual  = 60 * time.Second
		thinking = 300 * time.Millisecond
	)
	for round := range 4 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			defer c.close()
			c.leader()
			start := time.Now()
			var mu sync.Mutex
			var history []porcupine.Operation
			used := map[string]int{}
			reads, writes, unknown := 0, 0, 0
			var wg sync.WaitGroup
			groups := func(i int) *testNode { // a node that may be down just now
				mu.Lock()
				defer mu.Unlock()
				n := *c.nodes[i%3]
				if n.group == nil {
					return nil
				}
				return &n
			}
			for client := range clients {
				wg.Go(func() {
					id := client
					for i := 0; time.Since(start) < virtual; i++ {
						time.Sleep(time.Duration(rand.Int64N(int64(thinking))))
						op := kvOp{key: fmt.Sprint("k", rand.IntN(keys)), value: fmt.Sprint(client, ".", i), write: rand.IntN(2) == 0}
						n := groups(rand.IntN(3))
						mu.Lock()
						full := used[op.key] >= perKey
						used[op.key]++
						mu.Unlock()
						if n == nil || full {
							continue
						}
						began := time.Since(start)
						var got string
						var err error
						if op.write {
							_, err = n.put(op.key, op.value)
						} else {
							got, err = n.get(op.key, 3*time.Second)
						}
						ended := time.Since(start)
						mu.Lock()
						switch {
						case err == nil && op.write:
							writes++
						case err == nil:
							reads++
						case op.write && asError(t, err).Outcome == Unknown:
							unknown++
							ended = 1 << 50 // it may take effect at any time
						default:
							mu.Unlock()
							continue // definite: it did not happen
						}
						history = append(history, porcupine.Operation{ClientId: id, Input: op, Output: got, Call: int64(began), Return: int64(ended)})
						if err != nil {
							id += clients // a client of its own from now on
						}
						mu.Unlock()
					}
				})
			}
			wg.Go(func() {
				for time.Since(start) < virtual {
					time.Sleep(3*time.Second + time.Duration(rand.Int64N(int64(4*time.Second))))
					mu.Lock()
					var leader *testNode
					for _, n := range c.nodes {
						if n.group.Leads() {
							leader = n
						}
					}
					mu.Unlock()
					if leader == nil {
						continue
					}
					if rand.IntN(2) == 0 {
						c.fabric.isolate(leader.id)
						time.Sleep(time.Duration(rand.Int64N(int64(6 * time.Second))))
						c.fabric.heal()
						continue
					}
					host := leader.host
					c.fabric.leave(leader.id)
					mu.Lock()
					leader.group = nil
					mu.Unlock()
					host.Close()
					time.Sleep(time.Duration(rand.Int64N(int64(4 * time.Second))))
					mu.Lock()
					leader.machine = newMapMachine()
					leader.open(c.members)
					mu.Unlock()
				}
			})
			wg.Wait()
			if reads < 50 || writes < 50 {
				t.Errorf("only %d reads and %d writes", reads, writes)
			}
			t.Logf("round %d: %d reads, %d writes, %d unknown", round, reads, writes, unknown)
			if got, info := porcupine.CheckOperationsVerbose(registers, history, 0); got != porcupine.Ok {
				_ = info
				var lines []string
				for _, op := range history {
					lines = append(lines, fmt.Sprint(op))
				}
				t.Fatalf("%v:\n%s", got, strings.Join(lines, "\n"))
			}
		})
	}
}

package replication

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// The stores are in memory and the network passes pointers: this measures the
// groups and the Raft library, not disks.
func benchCluster(b *testing.B) (*cluster, *testNode) {
	c := newCluster(b, 3, func(c *cluster) { c.fabric.delay = 0 })
	return c, c.leader()
}

func inParallel(b *testing.B, clients int, op func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, clients)
	b.ResetTimer()
	start := time.Now()
	for range clients {
		go func() {
			for left.Add(-1) >= 0 {
				if err := op(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "ops/s")
}

func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			c, leader := benchCluster(b)
			defer c.close()
			cmd := append([]byte("k="), make([]byte, 270)...)
			inParallel(b, clients, func() error {
				_, err := leader.group.Propose(context.Background(), cmd)
				return err
			})
		})
	}
}

func BenchmarkReadIndex(b *testing.B) {
	for _, where := range []string{"leader", "follower"} {
		for _, clients := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("%s/clients=%d", where, clients), func(b *testing.B) {
				c, n := benchCluster(b)
				defer c.close()
				if where == "follower" {
					n = c.others(n)[0]
				}
				inParallel(b, clients, func() error {
					_, err := n.group.ReadIndex(context.Background())
					return err
				})
			})
		}
	}
}

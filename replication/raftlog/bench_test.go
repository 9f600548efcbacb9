package raftlog

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/storage"
)

// BenchmarkStoreLog appends 300-byte entries, each synced, from one goroutine a
// replica: over one shared database, and over a bolt file a replica.
func BenchmarkStoreLog(b *testing.B) {
	shared := func(b *testing.B, replicas int) (stores []*Store, shut func()) {
		l, err := storage.OpenLog(storage.LogOptions{Dir: filepath.Join(b.TempDir(), "log"), NodeID: "n1-aaaa"})
		must(b, err)
		for g := range replicas {
			rl, err := l.Replica(storage.Replica{Group: storage.GroupID(g), Generation: 1})
			must(b, err)
			s, err := Open(rl)
			must(b, err)
			stores = append(stores, s)
		}
		return stores, func() { must(b, l.Close()) }
	}
	bolt := func(b *testing.B, replicas int) (stores []*Store, shut func()) {
		dir := b.TempDir()
		for g := range replicas {
			stores = append(stores, openBoltAt(b, filepath.Join(dir, fmt.Sprint(g))))
		}
		return stores, func() {
			for _, s := range stores {
				must(b, s.Close())
			}
		}
	}
	for _, kind := range []struct {
		name string
		open func(*testing.B, int) ([]*Store, func())
	}{{"pebble", shared}, {"bolt", bolt}} {
		for _, replicas := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/replicas=%d", kind.name, replicas), func(b *testing.B) {
				stores, shut := kind.open(b, replicas)
				defer shut()
				data := make([]byte, 300)
				var next atomic.Int64
				var running sync.WaitGroup
				b.ResetTimer()
				for _, s := range stores {
					running.Go(func() {
						for i := uint64(1); next.Add(1) <= int64(b.N); i++ {
							if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: data}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				running.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}

package replication

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// Whatever is stored, overwritten and removed, entries read as the store has
// them, and what is kept stays within its bounds.
func TestRecentLog(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 3<<20)
	rapid.Check(t, func(t *rapid.T) {
		store := raft.NewInmemStore()
		// Another group may hold much, little or nothing of the budget.
		shared := &recentBudget{limit: 16 << 20}
		shared.held.Store(rapid.Int64Range(0, shared.limit).Draw(t, "others"))
		others := shared.held.Load()
		recent := &recentLog{LogStore: store, budget: shared}
		last, term := uint64(0), uint64(1)
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 1: // a quiet time
				recent.dropIdle()
				recent.dropIdle()
				if recent.bytes != 0 {
					t.Fatalf("%d bytes kept while idle", recent.bytes)
				}
			case 0: // a new leader removes a suffix
				term++
				if from := rapid.Uint64Range(1, last+1).Draw(t, "suffix"); from <= last {
					if err := recent.DeleteRange(from, last); err != nil {
						t.Fatal(err)
					}
					last = from - 1
				}
			default:
				var logs []*raft.Log
				for range rapid.IntRange(1, 80).Draw(t, "entries") {
					last++
					data := []byte{byte(last)}
					if rapid.IntRange(0, 19).Draw(t, "size") == 0 {
						data = big
					}
					logs = append(logs, &raft.Log{Index: last, Term: term, Data: data})
				}
				if err := recent.StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
			}
			kept := 0
			for _, l := range recent.ring {
				if l != nil {
					kept += len(l.Data)
				}
			}
			if kept != recent.bytes || kept > recentBytes || shared.held.Load() != others+int64(kept) || shared.held.Load() > shared.limit {
				t.Fatalf("%d bytes kept, %d counted, %d of %d by all", kept, recent.bytes, shared.held.Load(), shared.limit)
			}
			for index := uint64(1); index <= last; index++ {
				var got, want raft.Log
				if err := recent.GetLog(index, &got); err != nil {
					t.Fatal(err)
				}
				if err := store.GetLog(index, &want); err != nil {
					t.Fatal(err)
				}
				if got.Index != want.Index || got.Term != want.Term || len(got.Data) != len(want.Data) {
					t.Fatalf("entry %d: term %d instead of %d", index, got.Term, want.Term)
				}
			}
			var none raft.Log
			if recent.GetLog(last+1, &none) == nil {
				t.Fatal("an entry that was removed")
			}
		}
	})
}

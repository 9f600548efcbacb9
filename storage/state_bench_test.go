package storage

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func benchReplica(b *testing.B) *ReplicaState {
	b.Helper()
	s, err := OpenState(StateOptions{FS: vfs.Default, Dir: b.TempDir()})
	ok(b, err)
	b.Cleanup(func() { ok(b, s.Close()) })
	return replicaOf(b, s, stateReplica)
}

// benchKeys is more than a memtable holds at 256 bytes a value.
const benchKeys = 300_000

func benchKey(i int) string { return fmt.Sprintf("key-%012d", i%benchKeys) }

// fill writes every key, 64 commands an entry, and flushes if asked to.
func fill(b *testing.B, r *ReplicaState, flush bool) {
	b.Helper()
	value := string(make([]byte, 256))
	index := uint64(0)
	for i := 0; i < benchKeys; {
		var commands []Command
		for range 64 {
			commands = append(commands, put(benchKey(i), value))
			i++
		}
		index++
		apply(b, r, index, commands...)
	}
	if flush {
		ok(b, r.state.db.Flush())
		start, end := replicaSpan(r.replica)
		ok(b, r.state.db.Compact(b.Context(), start, end, false))
	}
}

// burst applies n commands in one call, 1,024 an entry, as a replica does that
// catches up.
func burst(tb testing.TB, r *ReplicaState, n int) {
	tb.Helper()
	at, _ := r.Applied()
	var entries []ApplyEntry
	for n > 0 {
		var commands []Command
		for range min(n, 1024) {
			commands = append(commands, put(benchKey(n), "v"))
			n--
		}
		at++
		entries = append(entries, entry(tb, at, commands...))
	}
	_, err := r.Apply(entries)
	ok(tb, err)
}

// BenchmarkApplyAfterBurst is the cost of one command after one call that applied
// many.
func BenchmarkApplyAfterBurst(b *testing.B) {
	for _, n := range []int{0, 1 << 10, 8 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("burst=%d", n), func(b *testing.B) {
			r := benchReplica(b)
			burst(b, r, n)
			at, _ := r.Applied()
			one := entry(b, 0, put("key", "v"))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				at++
				one.Index = at
				if _, err := r.Apply([]ApplyEntry{one}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkApply is the cost of one command; "batch" is commands an entry.
func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, 16, 64} {
		for name, make := range map[string]func(i int) Command{
			"put":       func(i int) Command { return put(benchKey(i), string(value256)) },
			"put-if":    func(i int) Command { return put(benchKey(i), string(value256)).when(ConditionPresent) },
			"put-if-no": func(i int) Command { return put("x"+benchKey(i), string(value256)).when(ConditionPresent) },
		} {
			b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
				r := benchReplica(b)
				if name != "put" {
					fill(b, r, true)
				}
				at, _ := r.Applied()
				var entries []ApplyEntry
				for i := 0; i < 4096; i += batch {
					var commands []Command
					for j := range batch {
						commands = append(commands, make(rand.IntN(benchKeys)+j))
					}
					entries = append(entries, entry(b, 0, commands...))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += batch {
					at++
					e := entries[int(at)%len(entries)]
					e.Index = at
					if _, err := r.Apply([]ApplyEntry{e}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

var value256 = make([]byte, 256)

// BenchmarkGet is a point read: from a memtable, from tables, and of a key
// that is not there.
func BenchmarkGet(b *testing.B) {
	for _, flushed := range []bool{false, true} {
		r := benchReplica(b)
		fill(b, r, flushed)
		for name, prefix := range map[string]string{"present": "", "absent": "key-0000001"} {
			b.Run(fmt.Sprintf("%s/flushed=%v", name, flushed), func(b *testing.B) {
				keys := make([][]byte, 4096)
				for i := range keys {
					keys[i] = []byte(benchKey(rand.IntN(benchKeys)))
					if prefix != "" {
						keys[i] = append(keys[i], 'x')
					}
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, found, err := r.Get(keys[i%len(keys)]); err != nil || found == (prefix != "") {
						b.Fatal(found, err)
					}
				}
			})
		}
	}
}

// BenchmarkIteratorGet is the other way to read a point: an iterator kept open
// (whose view grows old) and one made for each read.
func BenchmarkIteratorGet(b *testing.B) {
	r := benchReplica(b)
	fill(b, r, true)
	key := func(i int) []byte { return append(append([]byte(nil), r.users...), benchKey(i*7919)...) }
	b.Run("kept", func(b *testing.B) {
		it, err := r.state.db.NewIter(&pebble.IterOptions{LowerBound: r.users, UpperBound: prefixEnd(r.users)})
		ok(b, err)
		defer it.Close()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if !it.SeekPrefixGE(key(i)) {
				b.Fatal("not there")
			}
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			it, err := r.state.db.NewIter(nil)
			ok(b, err)
			if !it.SeekPrefixGE(key(i)) {
				b.Fatal("not there")
			}
			ok(b, it.Close())
		}
	})
}

// BenchmarkIndexedBatch is the price of the other way to let commands of one
// batch see each other, to compare with BenchmarkApply's put-if.
func BenchmarkIndexedBatch(b *testing.B) {
	r := benchReplica(b)
	fill(b, r, true)
	batch := r.state.db.NewIndexedBatch()
	record := make([]byte, 300)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := append(append([]byte(nil), r.users...), benchKey(i*7919)...)
		if _, closer, err := batch.Get(key); err == nil {
			closer.Close()
		}
		ok(b, batch.Set(key, record, nil))
		if i%64 == 63 {
			ok(b, batch.Commit(pebble.NoSync))
			batch.Reset()
		}
	}
	ok(b, batch.Close())
}

// BenchmarkScan reads pages of 100 keys, a view each.
func BenchmarkScan(b *testing.B) {
	r := benchReplica(b)
	fill(b, r, true)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		page, err := r.Scan(ScanOptions{Start: []byte(benchKey(rand.IntN(benchKeys - 100))), Limit: 100})
		if err != nil || len(page.Entries) != 100 {
			b.Fatal(len(page.Entries), err)
		}
	}
}

// BenchmarkTransfer streams a replica into another and installs it.
func BenchmarkTransfer(b *testing.B) {
	r := benchReplica(b)
	fill(b, r, true)
	v, err := r.View()
	ok(b, err)
	defer v.Close()
	for i := uint32(2); b.Loop(); i++ {
		to := replicaOf(b, r.state, Replica{stateReplica.Group, i})
		g, err := to.Stage()
		ok(b, err)
		pr, pw := io.Pipe()
		go func() {
			_, err := v.WriteTo(pw)
			pw.CloseWithError(err)
		}()
		n, err := g.ReadFrom(pr)
		ok(b, err)
		b.SetBytes(n)
		ok(b, g.Install())
		ok(b, g.Close())
		ok(b, r.state.Destroy(to.replica))
	}
}

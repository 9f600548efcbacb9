package storage

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// BenchmarkPromote is the cost of one promoted write of 256 bytes, with the
// record of fates at its bound; "batch" is writes a promotion.
func BenchmarkPromote(b *testing.B) {
	for _, batch := range []int{1, 16, 256} {
		for name, base := range map[string]func(at uint64) uint64{
			"informed": func(at uint64) uint64 { return at }, // replaces what it has heard of
			"unheard":  func(uint64) uint64 { return 0 },     // and lists it
		} {
			b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
				r := benchReplica(b)
				sequence := uint64(0)
				entry := func(at uint64, batch int) ApplyEntry {
					p := Promotion{Now: hlc.Timestamp(at) << 16}
					for range batch {
						sequence++
						p.Writes = append(p.Writes, eventual(nodeIDs[sequence%3], sequence/3+1, base(at-1), hlc.Timestamp(sequence), string(value256)).of(benchKey(rand.IntN(benchKeys))))
					}
					return logged(b, at, p)
				}
				at := uint64(0)
				for sequence < MaxFates {
					at++
					take(b, r, entry(at, 512))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += batch {
					at++
					b.StopTimer()
					e := entry(at, batch)
					b.StartTimer()
					take(b, r, e)
				}
			})
		}
	}
}

// BenchmarkCollect is the cost of one tombstone that a floor removes.
func BenchmarkCollect(b *testing.B) {
	r := benchReplica(b)
	at := uint64(0)
	b.ReportAllocs()
	for n := 0; n < b.N; n += MaxCollected {
		b.StopTimer()
		for range MaxCollected / 64 {
			at++
			var commands []Command
			for i := range 64 {
				commands = append(commands, del(benchKey(int(at)*64+i)))
			}
			apply(b, r, at, commands...)
		}
		at++
		e := logged(b, at, at-1)
		b.StartTimer()
		take(b, r, e)
	}
}

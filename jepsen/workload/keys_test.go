package workload

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is drawn: no key has more operations than it may, and at any time no
// partition has two keys more than another.
func TestKeysAreSpreadAndUsedUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partitions := rapid.IntRange(1, 16).Draw(t, "partitions")
		most := rapid.IntRange(1, 40).Draw(t, "most")
		active := rapid.IntRange(1, 20).Draw(t, "active")
		of := func(key string) int {
			n := 0
			for _, b := range []byte(key) {
				n = n*31 + int(b)
			}
			return n % partitions
		}
		k := newKeys("w", Config{Partitions: partitions, PartitionOf: of, OpsPerKey: most}, active, 7)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		used := map[string]int{}
		for range rapid.IntRange(1, 2000).Draw(t, "operations") {
			name := k.pick(random)
			used[name]++
			if again := k.active[random.IntN(len(k.active))].name; random.IntN(5) == 0 && k.use(again) {
				used[again]++
			}
		}
		here := make([]int, partitions)
		for _, at := range k.active {
			here[of(at.name)]++
		}
		if len(k.active) != active || slices.Max(here)-slices.Min(here) > 1 {
			t.Fatalf("%d keys, in the partitions %v", len(k.active), here)
		}
		for name, n := range used {
			if n > most || !strings.HasPrefix(name, "w/") || !slices.Contains(k.all(), name) {
				t.Fatalf("%d operations of %s, of %d; all are %q", n, name, most, k.all())
			}
		}
		if k.use("w/none") {
			t.Fatal("a key that there is not")
		}
	})
}

// Operations meet at one key for a while, and do not forget the others.
func TestAKeyIsHot(t *testing.T) {
	k := newKeys("w", Config{}, 8, 1_000_000)
	random := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		used := map[string]int{}
		for range 2 * hotFor {
			used[k.pick(random)]++
		}
		hottest := 0
		for _, n := range used {
			hottest = max(hottest, n)
		}
		if hottest < hotFor*2/3 || len(used) < 6 {
			t.Errorf("of %d operations %d at one key, %d keys", 2*hotFor, hottest, len(used))
		}
	}
}

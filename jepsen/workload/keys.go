package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// keys are those of a workload: a few at a time, since only operations that meet
// at one key can contradict each other, and a new one for each that is used up.
//
// They are spread evenly over the partitions: each partition has a leader and
// replicas of its own, and a cut leaves some of them on either side. Half of the
// operations go to one hot key, which changes all the time, so that there are
// moments at which many meet; the other half go to any, so that whatever a fault
// does to a partition, somebody soon asks.
type keys struct {
	workload  string
	most      int // operations a key
	partition func(key string) int

	active []*key // in use now
	names  []string
	tried  int   // numbers of names
	made   []int // keys of each partition
	hot    *key
	heat   int // operations for which it stays hot
}

type key struct {
	name      string
	ops       int
	partition int // that it was made for
}

const (
	// defaultPartitions of a cluster of which nobody says how many it has.
	defaultPartitions = 8
	// fewestKeys at a time: with 300 operations of each, and a hundred a second, they
	// last for 24 s.
	fewestKeys = 8
	// hotFor is how many operations a key is hot.
	hotFor = 30
	// maxTries bounds the search for a name in a partition.
	maxTries = 10_000
)

// eachPartition is how many keys make one a partition, or more if that would be
// so few that each is soon used up: what was written before a fault is to be read
// after it.
func (c Config) eachPartition() int { return max(c.partitions(), fewestKeys) }

func (c Config) partitions() int {
	if c.Partitions < 1 {
		return defaultPartitions
	}
	return c.Partitions
}

// newKeys are so many at a time, of at most so many operations each.
func newKeys(workload string, c Config, active, most int) *keys {
	k := &keys{workload: workload, most: most, partition: c.PartitionOf, made: make([]int, c.partitions())}
	if c.OpsPerKey > 0 {
		k.most = c.OpsPerKey
	}
	for range max(active, 1) {
		k.active = append(k.active, k.fresh())
	}
	return k
}

// fresh makes a key in the partition that has the fewest.
func (k *keys) fresh() *key {
	now := make([]int, len(k.made))
	for _, at := range k.active {
		now[at.partition]++
	}
	next := &key{}
	for p := range k.made {
		if cmp.Or(cmp.Compare(now[p], now[next.partition]), cmp.Compare(k.made[p], k.made[next.partition])) < 0 {
			next.partition = p
		}
	}
	k.made[next.partition]++
	for range maxTries {
		next.name = fmt.Sprintf("%s/%d", k.workload, k.tried)
		k.tried++
		if k.partition == nil || k.partition(next.name) == next.partition {
			break
		}
	}
	k.names = append(k.names, next.name)
	return next
}

// pick is a key for one operation.
func (k *keys) pick(random *rand.Rand) string {
	if k.heat == 0 {
		k.hot, k.heat = k.active[random.IntN(len(k.active))], hotFor
	}
	at := k.hot
	if random.IntN(2) == 0 {
		at = k.active[random.IntN(len(k.active))]
	} else {
		k.heat--
	}
	if at.ops >= k.most {
		was := at
		k.active = slices.DeleteFunc(k.active, func(o *key) bool { return o == was })
		at = k.fresh()
		k.active = append(k.active, at)
		if k.hot == was {
			k.hot = at
		}
	}
	at.ops++
	return at.name
}

// use takes one more operation of a key, if it is not used up.
func (k *keys) use(name string) bool {
	i := slices.IndexFunc(k.active, func(at *key) bool { return at.name == name })
	if i < 0 || k.active[i].ops >= k.most {
		return false
	}
	k.active[i].ops++
	return true
}

// all names that there have been.
func (k *keys) all() []string { return slices.Clone(k.names) }

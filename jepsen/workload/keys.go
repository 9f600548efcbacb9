package workload

import (
	"fmt"
	"math/rand/v2"
)

// keys are those of a workload: a few at a time, since only operations that meet
// at one key can contradict each other, and a new one for each that is used up.
type keys struct {
	workload string
	most     int   // operations a key
	active   []key // in use now
	made     int
}

type key struct {
	name string
	ops  int
}

func newKeys(workload string, c Config, active, most int) *keys {
	if c.OpsPerKey > 0 {
		most = c.OpsPerKey
	}
	k := &keys{workload: workload, most: most}
	for range max(active, 1) {
		k.active = append(k.active, k.fresh())
	}
	return k
}

func (k *keys) fresh() key {
	k.made++
	return key{name: fmt.Sprintf("%s/%d", k.workload, k.made-1)}
}

// pick is a key for one operation.
func (k *keys) pick(random *rand.Rand) string {
	at := &k.active[random.IntN(len(k.active))]
	if at.ops >= k.most {
		*at = k.fresh()
	}
	at.ops++
	return at.name
}

// use takes one more operation of a key, if it is not used up.
func (k *keys) use(name string) bool {
	for i := range k.active {
		if at := &k.active[i]; at.name == name && at.ops < k.most {
			at.ops++
			return true
		}
	}
	return false
}

// all names that there have been.
func (k *keys) all() []string {
	var names []string
	for i := range k.made {
		names = append(names, fmt.Sprintf("%s/%d", k.workload, i))
	}
	return names
}

package node

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// applied is what all nodes were given to apply: the logs of the partitions as
// they are, whoever keeps them.
type applied struct {
	lock  sync.Mutex
	logs  map[partition.ID]map[uint64][][]byte
	wrong []error
}

// watch lets the nodes of a world tell what they apply.
func (a *applied) watch(c *Config) {
	held, name := c.beforeApply, c.Name
	c.beforeApply = func(p partition.ID, entries []replication.Entry) {
		a.take(name, p, entries)
		if held != nil {
			held(p, entries)
		}
	}
}

func (a *applied) take(name string, p partition.ID, entries []replication.Entry) {
	a.lock.Lock()
	defer a.lock.Unlock()
	if a.logs == nil {
		a.logs = map[partition.ID]map[uint64][][]byte{}
	}
	if a.logs[p] == nil {
		a.logs[p] = map[uint64][][]byte{}
	}
	for _, e := range entries {
		known, ok := a.logs[p][e.Index]
		if !ok {
			for _, c := range e.Commands {
				known = append(known, bytes.Clone(c))
			}
			a.logs[p][e.Index] = known
			continue
		}
		same := len(known) == len(e.Commands)
		for i := 0; same && i < len(known); i++ {
			same = bytes.Equal(known[i], e.Commands[i])
		}
		if !same {
			a.wrong = append(a.wrong, fmt.Errorf("%s applied another entry %d of partition %d than others", name, e.Index, p))
		}
	}
}

// resolve tells of linearizable writes of unknown outcome what the logs tell, so
// that checkers have to give less benefit of the doubt: one that stands in no log
// was never applied, and one that does, without a condition, was.
func (a *applied) resolve(ops []contract.Op) {
	a.lock.Lock()
	defer a.lock.Unlock()
	puts := map[string]contract.Version{}
	deletes := map[string]map[contract.Version]bool{} // by key
	for _, log := range a.logs {
		for index, commands := range log {
			for _, b := range commands {
				c, err := storage.DecodeCommand(b)
				if err != nil {
					continue // a promotion, a floor
				}
				v := contract.Version{Index: index, Timestamp: uint64(c.Timestamp), Node: string(c.Node)}
				if c.Kind == storage.CommandPut {
					puts[string(c.Value)] = v
					continue
				}
				if c.Condition.Kind != storage.ConditionNone {
					continue
				}
				if deletes[string(c.Key)] == nil {
					deletes[string(c.Key)] = map[contract.Version]bool{}
				}
				deletes[string(c.Key)][v] = true
			}
		}
	}
	for _, o := range ops {
		delete(deletes[o.Key], o.Version)
	}
	lost := map[string][]*contract.Op{} // deletes without a condition, by key
	for i := range ops {
		o := &ops[i]
		if o.Level != contract.Linearizable || o.Outcome != contract.Unknown {
			continue
		}
		v, found := puts[o.Value]
		switch {
		case o.Kind == contract.Delete && o.Condition == contract.Always:
			lost[o.Key] = append(lost[o.Key], o)
		case o.Kind != contract.Put:
		case !found:
			o.Outcome = contract.Failed
		case o.Condition == contract.Always:
			o.Version = v
		}
	}
	for key, those := range lost {
		left := deletes[key]
		for _, o := range those {
			switch {
			case len(left) == 0:
				o.Outcome = contract.Failed
			case len(left) == 1 && len(those) == 1:
				for v := range left {
					o.Version = v
				}
			}
		}
	}
}

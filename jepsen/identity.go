package jepsen

import (
	"slices"
	"sync"
)

// identities are the ids of nodes by name: what versions call them. An emptied
// disk makes a new node of the same name, so an id is known only while nobody
// has touched the disk.
type identities struct {
	mu  sync.Mutex
	now map[string]identity
	// old ids of a name: their disks were emptied.
	old map[string][]string
}

// identity is who stood behind a name at a moment.
type identity struct {
	id  string // empty while it is not known
	era int    // how many disks there were before
}

func (i *identities) of(name string) identity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.now[name]
}

// learn notes the id of a name, for the era in which it was asked for: the node may
// have been wiped since.
func (i *identities) learn(name string, era int, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.now == nil {
		i.now = map[string]identity{}
	}
	if i.now[name].era == era {
		i.now[name] = identity{id, era}
	}
}

// wiped: whoever answers under that name from now on is another node.
func (i *identities) wiped(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.now == nil {
		i.now = map[string]identity{}
	}
	if i.old == nil {
		i.old = map[string][]string{}
	}
	was := i.now[name]
	if was.id != "" {
		i.old[name] = append(i.old[name], was.id)
	}
	i.now[name] = identity{era: was.era + 1}
}

// gone reports whether an id's disk was emptied.
func (i *identities) gone(name, id string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Contains(i.old[name], id)
}

// everGone reports whether a name's disk was ever emptied.
func (i *identities) everGone(name string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.now[name].era > 0
}

// allGone are all ids whose disks were emptied.
func (i *identities) allGone() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Sorted(func(yield func(string) bool) {
		for _, ids := range i.old {
			for _, id := range ids {
				if !yield(id) {
					return
				}
			}
		}
	})
}

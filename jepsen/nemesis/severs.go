package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

const (
	// severTimeout bounds one request to a node that it cut itself off, or no more.
	severTimeout = 2 * time.Second
	// severAgain is when one that failed is made again: the node may be down.
	severAgain = 250 * time.Millisecond
	// severPatience bounds how long, at the end, nodes are told that all is good.
	severPatience = 30 * time.Second
)

// severs has nodes cut themselves off from each other, where links cannot be touched.
// One that is down cannot be told, and forgets what it was told when it is killed.
// That does no harm while the others, which are told too, talk to it no more. It is
// told as soon as it answers.
type severs struct {
	cut func(ctx context.Context, node string, from []string) error

	mu      sync.Mutex
	want    map[string]map[string]int // of each node: from whom, for how many events
	told    map[string]string         // what each one took last; absent: not known
	turns   map[string]*sync.Mutex    // one request to a node at a time
	changed chan struct{}
}

func newSevers(nodes []string, cut func(context.Context, string, []string) error) *severs {
	s := &severs{cut: cut, want: map[string]map[string]int{}, told: map[string]string{}, turns: map[string]*sync.Mutex{}, changed: make(chan struct{}, 1)}
	for _, n := range nodes {
		s.want[n], s.turns[n] = map[string]int{}, &sync.Mutex{}
		s.told[n] = told(nil) // Run begins with good links
	}
	return s
}

func told(from []string) string { return fmt.Sprintf("%q", from) }

// add counts an event in, or out, and has the nodes obey. It returns how many of
// them did at once; the others will be told again.
func (s *severs) add(ctx context.Context, links []lab.Link, count int) (obeyed int) {
	touched := map[string]bool{}
	s.mu.Lock()
	for _, l := range links {
		touched[l.From] = true
		if s.want[l.From][l.To] += count; s.want[l.From][l.To] == 0 {
			delete(s.want[l.From], l.To)
		}
	}
	s.mu.Unlock()
	var wait sync.WaitGroup
	var mu sync.Mutex
	for n := range touched {
		wait.Go(func() {
			if s.tell(ctx, n) == nil {
				mu.Lock()
				obeyed++
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return obeyed
}

// tell has one node obey, if it does not yet.
func (s *severs) tell(ctx context.Context, node string) error {
	turn := s.turns[node]
	turn.Lock()
	defer turn.Unlock()
	s.mu.Lock()
	from := slices.Sorted(maps.Keys(s.want[node]))
	obeys := s.told[node] == told(from)
	delete(s.told, node) // a failure leaves it unknown
	s.mu.Unlock()
	if !obeys {
		ctx, cancel := context.WithTimeout(ctx, severTimeout)
		defer cancel()
		if err := s.cut(ctx, node, from); err != nil {
			s.wake()
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[node] = told(from)
	return nil
}

// forgot says that a node was started anew.
func (s *severs) forgot(node string) {
	s.mu.Lock()
	s.told[node] = told(nil)
	s.mu.Unlock()
	s.wake()
}

func (s *severs) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// remind tells nodes again until ctx ends.
func (s *severs) remind(ctx context.Context) {
	for {
		select {
		case <-s.changed:
		case <-ctx.Done():
			return
		}
		if !until(ctx, time.Now().Add(severAgain)) {
			return
		}
		_ = s.heal(ctx) // a failure wakes it again
	}
}

// heal tells all nodes that do not obey, once.
func (s *severs) heal(ctx context.Context) error {
	nodes := slices.Sorted(maps.Keys(s.turns))
	failures := make([]error, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() { failures[i] = s.tell(ctx, n) })
	}
	wait.Wait()
	return errors.Join(failures...)
}

// healed tells nodes until all of them have obeyed.
func (s *severs) healed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, severPatience)
	defer cancel()
	for {
		err := s.heal(ctx)
		if err == nil || !until(ctx, time.Now().Add(severAgain)) {
			return err
		}
	}
}

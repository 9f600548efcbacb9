package nemesis

import (
	"errors"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// wires keeps what rules are active on each link, and has it follow all of them.
type wires struct {
	network Network

	mu     sync.Mutex
	active map[lab.Link][]*lab.Rule
	is     map[lab.Link]lab.Rule // as far as it is known
}

func newWires(n Network) *wires {
	return &wires{network: n, active: map[lab.Link][]*lab.Rule{}, is: map[lab.Link]lab.Rule{}}
}

// follow adds a rule, which is told apart from others by its address.
func (w *wires) follow(links []lab.Link, rule *lab.Rule) error {
	return w.change(links, func(rules []*lab.Rule) []*lab.Rule { return append(rules, rule) })
}

// leave takes a rule back.
func (w *wires) leave(links []lab.Link, rule *lab.Rule) error {
	return w.change(links, func(rules []*lab.Rule) (kept []*lab.Rule) {
		for _, r := range rules {
			if r != rule {
				kept = append(kept, r)
			}
		}
		return kept
	})
}

// change touches all links, whichever of them fail.
func (w *wires) change(links []lab.Link, change func([]*lab.Rule) []*lab.Rule) (failed error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range links {
		w.active[l] = change(w.active[l])
		failed = errors.Join(failed, w.settle(l))
	}
	return failed
}

func (w *wires) settle(l lab.Link) error {
	var rules []lab.Rule
	for _, r := range w.active[l] {
		rules = append(rules, *r)
	}
	want := Merge(rules...)
	if is, known := w.is[l]; known && is == want {
		return nil
	}
	delete(w.is, l) // a failure leaves it unknown
	if err := w.network.Shape(l, want); err != nil {
		return err
	}
	w.is[l] = want
	return nil
}

// heal tries once more what failed.
func (w *wires) heal() (failed error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.active {
		failed = errors.Join(failed, w.settle(l))
	}
	return failed
}

// carried is what links have carried so far, all together.
func (w *wires) carried(links []lab.Link) (sum lab.Traffic, failed error) {
	for _, l := range links {
		t, err := w.network.Traffic(l)
		failed = errors.Join(failed, err)
		sum.Sent, sum.Duplicated = sum.Sent+t.Sent, sum.Duplicated+t.Duplicated
		sum.Cut, sum.Lost, sum.Overflowed = sum.Cut+t.Cut, sum.Lost+t.Lost, sum.Overflowed+t.Overflowed
	}
	return sum, failed
}

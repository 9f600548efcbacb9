package session

import (
	"fmt"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// maxWidenSteps bounds the dots that one call of Widen asks for: some
// milliseconds' worth, to be spent only where a token does not fit otherwise.
const maxWidenSteps = 1 << 16

// Widen makes the token smaller by making its past larger. A session that
// writes through a node for long while there is no leader has some of the
// node's dots, and other sessions those between: every gap costs a byte or two.
// Widen fills those gaps of p of which exists says that each dot is one of a
// write: it is held, or was decided. The session then waits for those writes
// as if it had seen them, which is more than it needs and never less.
//
// A dot that was given out and never stored must not be added, as nobody could
// ever meet the token: so who calls Widen is as a rule the node that gave the
// dots out, and asks the log that holds them.
func (t *Token) Widen(p partition.ID, exists func(storage.Dot) bool) {
	at, found := t.find(p)
	if !found || t.past[at].dots == nil {
		return
	}
	h := &t.past[at]
	var fill []storage.DotRange
	var last storage.DotRange
	steps := 0
	for r := range h.dots.Ranges() {
		if last.Node == r.Node && last.Incarnation == r.Incarnation {
			n := last.Last + 1
			for ; n < r.First && steps < maxWidenSteps; n++ {
				if steps++; !exists(storage.Dot{Node: r.Node, Incarnation: r.Incarnation, Sequence: n}) {
					break
				}
			}
			if n == r.First {
				fill = append(fill, storage.DotRange{Node: r.Node, Incarnation: r.Incarnation, First: last.Last + 1, Last: n - 1})
			}
		}
		last = r
	}
	for _, r := range fill {
		if err := h.dots.AddRange(r); err != nil { // what fills a gap always fits
			t.fail(fmt.Errorf("session token: %w", err))
		}
	}
}

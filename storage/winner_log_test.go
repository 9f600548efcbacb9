package storage

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// The log of one key, as the tests of Decide and Winner play it: each event has
// the index of its place, from 1.

type eventKind byte

const (
	linPut    eventKind = 'P' // a linearizable put
	linDelete eventKind = 'D'
	// The floor rises, and what it allows is collected: to the last event but
	// promotions, or to its own index.
	floorBehind eventKind = 'c'
	floorHere   eventKind = 'C'
	promotion   eventKind = 'E'
)

type keyEvent struct {
	kind  eventKind
	floor uint64    // of the two floors
	id    int       // of a promotion: which write
	write Tentative // of a promotion
}

func (e keyEvent) String() string {
	switch e.kind {
	case promotion:
		what := "put"
		if e.write.Delete {
			what = "del"
		}
		return fmt.Sprintf("E%d(%s base %d ts %d %v)", e.id, what, e.write.Base, e.write.Timestamp, e.write.Dot)
	case floorBehind, floorHere:
		return fmt.Sprintf("floor(%d)", e.floor)
	default:
		return string(e.kind)
	}
}

// What a key ends with: the id of a write, or one of these.
const (
	holdsNothing = -1
	holdsLin     = 1000 // plus the index of the linearizable write
)

// keyLog is a log, what Decide makes of it, and what became of each write.
type keyLog struct {
	events    []keyEvent
	fixed     []uint64 // indexes of all events but promotions
	held      *Value
	heldID    int
	floor     uint64
	unlisted  []int // writes that lost and are not on the conflict list: heard of
	conflicts []int
}

func newKeyLog() keyLog { return keyLog{heldID: holdsNothing} }

func (l keyLog) String() string {
	var b strings.Builder
	for i, e := range l.events {
		fmt.Fprintf(&b, "%d:%v ", i+1, e)
	}
	return b.String()
}

func (l keyLog) next() uint64 { return uint64(len(l.events)) + 1 }

// base is the base of a write whose node heard of the first know of the fixed
// events, and of no promotion (low) or of as many as it can have (high), if it
// is promoted next.
func (l keyLog) base(know int, high bool) uint64 {
	if high {
		if know < len(l.fixed) {
			return l.fixed[know] - 1
		}
		return l.next() - 1
	}
	if know == 0 {
		return 0
	}
	return l.fixed[know-1]
}

// fix is the log with one more event that is no promotion. The receiver stays
// as it is.
func (l keyLog) fix(kind eventKind) keyLog {
	index := l.next()
	e := keyEvent{kind: kind}
	switch kind {
	case linPut, linDelete:
		// Timestamps from a clock that is far ahead: they must not count.
		l.hold(&Value{
			Version:   Version{Index: index, Timestamp: math.MaxUint64, Node: "zz"},
			Tombstone: kind == linDelete, Linearizable: true, LinearizableIndex: index,
		}, holdsLin+int(index), true)
	case floorHere:
		e.floor = index
	case floorBehind:
		if len(l.fixed) > 0 {
			e.floor = l.fixed[len(l.fixed)-1]
		}
	}
	l.floor = max(l.floor, e.floor)
	if l.held != nil && l.held.Tombstone && l.held.Version.Index <= l.floor {
		l.hold(nil, holdsNothing, true)
	}
	l.fixed = append(slices.Clip(l.fixed), index)
	l.events = append(slices.Clip(l.events), e)
	return l
}

// hold replaces what the key holds.
func (l *keyLog) hold(c *Value, id int, heardOf bool) {
	if old := l.heldID; old >= 0 && old < holdsLin {
		if heardOf {
			l.unlisted = append(slices.Clip(l.unlisted), old)
		} else {
			l.conflicts = append(slices.Clip(l.conflicts), old)
		}
	}
	l.held, l.heldID = c, id
}

// promote is the log with w promoted, as Decide says. It fails the test if that
// is not what the specification says.
func (l keyLog) promote(t fataler, id int, w Tentative) keyLog {
	t.Helper()
	index := l.next()
	if w.Base >= index {
		t.Fatalf("the test promotes a write of base %d at %d", w.Base, index)
	}
	got, want := Decide(l.held, l.floor, &w), specified(l.events, w)
	e := keyEvent{kind: promotion, id: id, write: w}
	if got != want {
		t.Fatalf("%+v for %v after %v: want %+v", got, e, l, want)
	}
	if got.Wins {
		for i, old := range l.events {
			if at := uint64(i) + 1; (old.kind == linPut || old.kind == linDelete) && at > w.Base {
				t.Fatalf("%v wins after %v, though it had not heard of the linearizable write at %d", e, l, at)
			}
		}
		c := CommittedBy(&w, index, l.held)
		l.hold(&c, id, !got.ListHeld)
	} else {
		l.conflicts = append(slices.Clip(l.conflicts), id)
	}
	l.events = append(slices.Clip(l.events), e)
	return l
}

// checkNothingLost fails unless every write of the log is what the key holds,
// or on the conflict list once, or was heard of by what came after it: a write
// whose base covers it, or of the same run of its node, a linearizable one, or
// the collection of its tombstone.
func (l keyLog) checkNothingLost(t fataler) {
	t.Helper()
	for i, e := range l.events {
		if e.kind != promotion || e.id == l.heldID {
			continue
		}
		listed := 0
		for _, id := range l.conflicts {
			if id == e.id {
				listed++
			}
		}
		if listed == 1 && !slices.Contains(l.unlisted, e.id) {
			continue
		}
		heard := false
		for _, later := range l.events[i+1:] {
			switch later.kind {
			case promotion:
				heard = heard || later.write.Base > uint64(i) || above(later.write, e.write) && sameRun(later.write, e.write)
			case floorBehind, floorHere:
				heard = heard || e.write.Delete && later.floor > uint64(i)
			default:
				heard = true
			}
		}
		if listed != 0 || !heard {
			t.Fatalf("write %d is listed %d times, and heard of: %v, after %v", e.id, listed, heard, l)
		}
	}
}

// specified is the rule once more, from the whole log and without any state:
// what Decide has to say of a write that is promoted after those events.
func specified(log []keyEvent, w Tentative) Decision {
	if uninformed(log, w) {
		return Decision{Superseded: CauseStaleBase}
	}
	at := holder(log)
	if at < 0 || log[at].kind != promotion {
		return Decision{Wins: true}
	}
	if !above(w, log[at].write) {
		return Decision{Superseded: CauseOlder}
	}
	return Decision{Wins: true, ListHeld: w.Base < uint64(at)+1 && !sameRun(w, log[at].write)}
}

// sameRun: one node has accepted both, without a restart in between, so that it
// held the lower when it took the higher.
func sameRun(a, b Tentative) bool {
	return a.Dot.Node == b.Dot.Node && a.Dot.Incarnation == b.Dot.Incarnation
}

// uninformed: somewhere in the log is a linearizable write, or a floor, that is
// above the base.
func uninformed(log []keyEvent, w Tentative) bool {
	for i, e := range log {
		switch e.kind {
		case linPut, linDelete:
			if w.Base < uint64(i)+1 {
				return true
			}
		case floorBehind, floorHere:
			if w.Base < e.floor {
				return true
			}
		}
	}
	return false
}

// holder is the place of the event whose value the key has after the log: the
// highest informed eventual write since the last linearizable one, or else that
// one; -1 if there is neither since a tombstone was collected.
func holder(log []keyEvent) int {
	best := -1
	for i := len(log) - 1; i >= 0; i-- {
		switch e := log[i]; e.kind {
		case linPut, linDelete:
			if best < 0 {
				return i
			}
			return best
		case promotion:
			if !uninformed(log[:i], e.write) && (best < 0 || above(e.write, log[best].write)) {
				best = i
			}
		default:
			if at := holder(log[:i]); at >= 0 && uint64(at)+1 <= highestFloor(log[:i+1]) {
				if e := log[at]; e.kind == linDelete || e.kind == promotion && e.write.Delete {
					return best
				}
			}
		}
	}
	return best
}

func highestFloor(log []keyEvent) uint64 {
	var f uint64
	for _, e := range log {
		f = max(f, e.floor)
	}
	return f
}

// above is the order of eventual writes, written out.
func above(a, b Tentative) bool {
	if a.Timestamp != b.Timestamp {
		return a.Timestamp > b.Timestamp
	}
	if a.Dot.Node != b.Dot.Node {
		return a.Dot.Node > b.Dot.Node
	}
	if a.Dot.Incarnation != b.Dot.Incarnation {
		return a.Dot.Incarnation > b.Dot.Incarnation
	}
	return a.Dot.Sequence > b.Dot.Sequence
}

// ranked is a write that is above those with a lower rank and below those with
// a higher one, by its timestamp, while all else points the other way.
func ranked(rank int) Tentative {
	return Tentative{
		Dot:       Dot{Node: partition.NodeID('z' - rune(rank)), Incarnation: uint64(100 - rank), Sequence: uint64(100 - rank)},
		Timestamp: hlc.Timestamp(rank + 1),
	}
}

// rankedByTies is the same with equal timestamps: by the node, then by the
// incarnation, then by the sequence number.
func rankedByTies(rank int) Tentative {
	return Tentative{Timestamp: 7, Dot: []Dot{{"n1", 1, 8}, {"n1", 2, 3}, {"n1", 2, 4}, {"n2", 1, 1}, {"n3", 0, 1}}[rank]}
}

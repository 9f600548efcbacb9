package storage

import (
	"cmp"

	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Tentative is an eventual write as its accepting node made it, once and for
// all: nothing in it changes on its way into the log.
type Tentative struct {
	// Dot names the write. Dot.Node is the accepting node, which is also the
	// node of the write's version.
	Dot Dot
	// Base is the highest committed log index of the partition that the
	// accepting node had heard of. It is below the index at which the write is
	// promoted: whoever applies has to see to that.
	Base uint64
	// Timestamp is above that of every version of the key that the accepting
	// node held, and of everything the writing session had seen.
	Timestamp hlc.Timestamp
	// Delete marks a delete; there are no Bytes then.
	Delete bool
	Key    []byte
	Bytes  []byte
}

// Version is the write's version once it is promoted at index; 0 gives that
// of a tentative write.
func (t *Tentative) Version(index uint64) Version {
	return Version{Index: index, Timestamp: t.Timestamp, Node: t.Dot.Node}
}

// Committed is what a replica holds for a key, a tombstone included.
type Committed = Value

// CommittedBy is what the key holds after t was promoted at index and has won
// over held. It keeps the index of the key's last linearizable write, and its
// version.
func CommittedBy(t *Tentative, index uint64, held *Value) Value {
	v := Value{Version: t.Version(index), Tombstone: t.Delete, Base: t.Base, Dot: t.Dot, Bytes: t.Bytes}
	if held != nil {
		v.LinearizableIndex, v.Replaced = held.LinearizableIndex, held.lastLinearizable()
	}
	return v
}

// SupersededCause is why an eventual write lost. The numbers are those of the
// public interface.
type SupersededCause uint8

const (
	// CauseStaleBase: the write's node had not heard of the key's last
	// linearizable write or delete, or its base is below the partition's floor,
	// where nobody can tell any more.
	CauseStaleBase SupersededCause = 1
	// CauseOlder: of two eventual writes it is the one with the lower timestamp.
	CauseOlder SupersededCause = 2
)

func (c SupersededCause) String() string {
	switch c {
	case 0:
		return "not superseded"
	case CauseStaleBase:
		return "stale base"
	case CauseOlder:
		return "older"
	}
	return "unknown cause"
}

// Decision is what becomes of an eventual write that is promoted. The zero
// Decision is that of a write which is what the key holds already: there is
// nothing to do.
type Decision struct {
	// Wins: the key holds the write from now on.
	Wins bool
	// Superseded is why the write does not win: it goes to the conflict list,
	// as lost to what the key holds. It may hold nothing, if the write is below
	// the floor.
	Superseded SupersededCause
	// ListHeld: what the key held was a committed eventual write of which the
	// winner's node had not heard: its base is below, and it did not accept that
	// write itself, in the same run. It goes to the conflict list as lost to the
	// winner, with CauseOlder. Without ListHeld it was heard of and overwritten,
	// which is no conflict.
	ListHeld bool
}

// Decide says what becomes of the eventual write t when it is promoted to a
// key that holds held, nil for nothing. floor is the partition's: at or below
// it tombstones may be gone, and no member holds an undecided write with a
// base below it.
//
// In this order:
//
//  1. Below the floor t is superseded, whatever the key holds. The linearizable
//     delete of which t had not heard may have left nothing, and the key may
//     have been written anew since; both look as if t had come first. Only a
//     node that was removed can still bring such a write.
//  2. A base below the index of the key's last linearizable write or delete
//     supersedes t. That is asked of LinearizableIndex and not of the version
//     held: an eventual write that had heard of the linearizable one and
//     replaced it must not open the way for one that had not, else that one
//     would overwrite the linearizable write by going round it.
//  3. Over a linearizable write that it has heard of t wins, whatever the
//     timestamps say: clocks order eventual writes and nothing else.
//  4. So it does over a tombstone at or below the floor: whether that was collected
//     already must not matter, and a bounded number goes at a time.
//  5. Of two eventual writes the higher timestamp wins, then the higher node,
//     then the higher incarnation and sequence number. The last two are for
//     completeness: no node gives out a timestamp twice for one key.
//
// So what a key ends with does not depend on the order of promotion: 1 and 2
// look only at t and at the linearizable writes, and what is left is a
// maximum.
//
// That is also why 5 does not ask whether t's node had heard of the index held.
// It may have heard of an index without holding what was written there, by an
// answer that it passed on, so an honest t can be behind a fast clock's value
// in spite of its base. If t won over that value, X, then a third write Y with
// a timestamp between the two would win over t when it is promoted after t,
// but lose to X when it is promoted before: the outcome would hang on the order
// of promotion. As it is, t is superseded and listed. A node that does hold X,
// or whose session has seen it, gives t a timestamp above X's, so nobody loses
// to what they have read.
//
// Deciding a second time about a write that was decided before lets it win in one
// case only. t lost by its timestamp to an eventual delete of whose index its node
// had heard, and whose value it did not hold; then the floor passed the delete, by
// 4, and t is not below the floor. Promotion does not decide twice: the dot tells.
// A reader that merges t, of a node which was not told its fate yet, with the state
// of another one asks for it: see [Local.ReadNamed].
func Decide(held *Value, floor uint64, t *Tentative) Decision {
	if held != nil && held.is(t) {
		return Decision{}
	}
	if t.Base < floor && !fault.On(fault.FloorIgnored) {
		return Decision{Superseded: CauseStaleBase}
	}
	if held == nil || held.collectable(floor) {
		return Decision{Wins: true}
	}
	last := held.LinearizableIndex
	if fault.On(fault.IncumbentBase) && !held.Linearizable {
		last = 0
	}
	if t.Base < last && !fault.On(fault.SkipBase) {
		return Decision{Superseded: CauseStaleBase}
	}
	if held.Linearizable {
		return Decision{Wins: true}
	}
	if held.compare(t) >= 0 {
		return Decision{Superseded: CauseOlder}
	}
	own := held.Dot.Node == t.Dot.Node && held.Dot.Incarnation == t.Dot.Incarnation
	return Decision{Wins: true, ListHeld: t.Base < held.Version.Index && !own}
}

// is reports whether t is what the key holds.
func (v *Value) is(t *Tentative) bool {
	return !v.Linearizable && v.Dot == t.Dot && v.Version.Timestamp == t.Timestamp
}

// collectable reports whether v counts as nothing: it is a committed tombstone
// behind the floor, which may go with any command, or is gone at another replica.
func (v *Value) collectable(floor uint64) bool {
	return v != nil && v.Tombstone && v.Version.Index > 0 && v.Version.Index <= floor && !fault.On(fault.FloorIgnored)
}

// supersededBy is the version that t lost to, where the key held held: the
// linearizable write that its node had not heard of, even if an eventual one has
// taken its place since, or the newer eventual one. Zero if it is the floor that
// t is below: what it had not heard of may have left nothing.
func (d Decision) supersededBy(held *Value, t *Tentative) Version {
	switch {
	case held == nil || d.Superseded == CauseStaleBase && t.Base >= held.LinearizableIndex:
		return Version{}
	case d.Superseded == CauseStaleBase && !held.lastLinearizable().IsZero():
		return held.lastLinearizable()
	}
	return held.Version
}

// compare orders two eventual writes; the higher wins.
func (v *Value) compare(t *Tentative) int {
	return cmp.Or(
		cmp.Compare(v.Version.Timestamp, t.Timestamp),
		cmp.Compare(v.Version.Node, t.Dot.Node),
		cmp.Compare(v.Dot.Incarnation, t.Dot.Incarnation),
		cmp.Compare(v.Dot.Sequence, t.Dot.Sequence),
	)
}

// Winner is the version that an eventual read answers with: of what a replica
// holds for the key (nil for nothing) and the tentative writes of that key, the
// one that the key would hold after all of them were promoted. Nil means that
// what is held stands. The order of the writes does not matter; nor do
// repetitions, or writes that were promoted before.
//
// It is [Decide] for each in turn, so reading and promoting can not disagree.
func Winner(held *Value, floor uint64, writes []Tentative) *Tentative {
	var winner *Tentative
	var now Value
	for i := range writes {
		t := &writes[i]
		if !Decide(held, floor, t).Wins {
			continue
		}
		// The index is not known yet. It decides what is listed, not what wins.
		now = CommittedBy(t, 0, held)
		held, winner = &now, t
	}
	return winner
}

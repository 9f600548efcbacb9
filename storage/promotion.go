package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

const (
	// MaxPromotionWrites bounds the writes of one promotion, and so what one
	// command makes the state machine do.
	MaxPromotionWrites = 1024
	// MaxPromotionBytes bounds the encoding of a promotion of more than one
	// write: it shares an entry with other commands, which wait for it. A
	// single write may be as large as a write can be.
	MaxPromotionBytes = 256 << 10
)

// Promotion is a command that commits tentative writes, in this order. It
// reaches the log as any other command does, and may do so more than once: a
// write whose dot is in the partition's record of promoted dots is left alone.
//
// The leader proposes only writes whose base is below the index that the entry
// will have, which is so for any index that was committed when it was heard of.
type Promotion struct {
	// Writes are at most [MaxPromotionWrites].
	Writes []Tentative
	// Now is the leader's clock: the time at which conflicts are listed. Nothing
	// depends on it.
	Now hlc.Timestamp
	// Lived is for how long the partition has had a leader, all leaders together,
	// each by a clock that nobody sets: conflicts expire by it. One that is not above
	// what is known ([ReplicaState.Lived]) changes nothing.
	Lived time.Duration

	limits ledgerLimits // of this release, if it is zero
}

// FateKind is what became of an eventual write. The numbers are those of the
// public interface.
type FateKind uint8

const (
	// FatePending: not decided yet.
	FatePending FateKind = 1
	// FateCommitted: it was committed under the fate's version. What has
	// overwritten it since is not told.
	FateCommitted FateKind = 2
	// FateSuperseded: it lost to the fate's version, and its value went to the
	// conflict list.
	FateSuperseded FateKind = 3
	// FateExpired: decided so long ago that the record is gone.
	FateExpired FateKind = 4
	// FateLost: its node was removed before it was promoted, and it never will be.
	FateLost FateKind = 5
)

func (k FateKind) String() string {
	switch k {
	case FatePending:
		return "pending"
	case FateCommitted:
		return "committed"
	case FateSuperseded:
		return "superseded"
	case FateExpired:
		return "expired"
	case FateLost:
		return "lost"
	}
	return "unknown fate"
}

// Fate is what became of one eventual write.
type Fate struct {
	Kind FateKind
	// Version is the write's own if it is committed, and that of the write that
	// it lost to if it is superseded: the linearizable one that its node had not
	// heard of, or the newer eventual one. The latter is zero if the write's base
	// was below the partition's floor, where nobody can tell any more.
	Version Version
	// Index is the log index at which it was decided; 0 while pending, and if
	// it has expired.
	Index uint64
}

// Decided reports whether the write will not be promoted any more: its holders
// may forget it.
func (f Fate) Decided() bool { return f.Kind != FatePending }

// FateOf is a write with its fate.
type FateOf struct {
	Dot  Dot
	Fate Fate
}

// PromotionResult is what a [Promotion] came to.
type PromotionResult struct {
	// Index is that of its log entry. State that has applied it knows all of
	// the fates.
	Index uint64
	// Fates has one for each write, in their order. A write that was decided
	// before has its fate of then, or FateExpired. FatePending says that the
	// partition's record of promoted dots has no room for a further gap
	// ([MaxDotSpans]): nothing was done, the write is still to be handed in,
	// after those that fill gaps.
	Fates []FateOf
}

// The commands that are not a single write are
//
//	promotion: format (1) = 5 | now (8) | lived (8) | limits (48) | writes (2) |
//	  each write: node length (1) | node | incarnation (8) | sequence (8) |
//	  base (8) | timestamp (8) | flags (1) | key length (2) | key |
//	  unless it is a delete: value length (4) | value
//	floor:     format (1) = 6 | floor (8) | tombstones to collect at most (8)
//	forfeit:   format (1) = 4 | node length (1) | node
//	check:     format (1) = 7 | id (16)
//
// with all numbers little endian, and nothing after it. Logs of former releases
// have promotions of format 2, without lived and limits, and floors of format 3,
// without the number of tombstones: see [ledgerLimits].
const (
	formerPromotionFormat = 2
	formerFloorFormat     = 3
	forfeitFormat         = 4
	promotionFormat       = 5
	floorFormat           = 6
	checkFormat           = 7

	promotionFixedLen       = 1 + 8 + 8 + ledgerLimitsLen + 2
	formerPromotionFixedLen = 1 + 8 + 2
	promotionWriteFixedLen  = 1 + 8 + 8 + 8 + 8 + 1 + 2

	promotionDelete byte = 1 << 0
)

// PromotionSize is what t adds to the encoding of a promotion.
func PromotionSize(t *Tentative) int {
	n := promotionWriteFixedLen + len(t.Dot.Node) + len(t.Key)
	if !t.Delete {
		n += 4 + len(t.Bytes)
	}
	return n
}

// check refuses what no node accepts.
func (t *Tentative) check() error {
	v := tentativeVersion{t.Dot, t.Base, t.Timestamp, t.Delete, false, len(t.Bytes)}
	return v.check(len(t.Key))
}

func (p *Promotion) fixedLen() int {
	if p.limits.former {
		return formerPromotionFixedLen
	}
	return promotionFixedLen
}

// check refuses what could not be applied: the log must never hold it.
func (p *Promotion) check() error {
	size := p.fixedLen()
	for i := range p.Writes {
		if err := p.Writes[i].check(); err != nil {
			return err
		}
		size += PromotionSize(&p.Writes[i])
	}
	switch n := len(p.Writes); {
	case p.Lived < 0:
		return fmt.Errorf("promotion in a partition that has lived for %v", p.Lived)
	case n == 0 || n > MaxPromotionWrites:
		return fmt.Errorf("promotion of %d writes", n)
	case n > 1 && size > MaxPromotionBytes:
		return fmt.Errorf("promotion of %d writes and %d bytes", n, size)
	}
	return nil
}

// AppendPromotion appends the encoding of p, a command, to dst. The error says
// why p can not be applied; dst comes back unchanged then.
func AppendPromotion(dst []byte, p Promotion) ([]byte, error) {
	if err := p.check(); err != nil {
		return dst, err
	}
	size := p.fixedLen()
	for i := range p.Writes {
		size += PromotionSize(&p.Writes[i])
	}
	dst = slices.Grow(dst, size)
	if p.limits == (ledgerLimits{}) {
		p.limits = limits
	}
	if p.limits.former {
		dst = binary.LittleEndian.AppendUint64(append(dst, formerPromotionFormat), uint64(p.Now))
	} else {
		dst = binary.LittleEndian.AppendUint64(append(dst, promotionFormat), uint64(p.Now))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Lived))
		dst = p.limits.append(dst)
	}
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(p.Writes)))
	for i := range p.Writes {
		t := &p.Writes[i]
		dst = append(dst, byte(len(t.Dot.Node)))
		dst = append(dst, t.Dot.Node...)
		dst = binary.LittleEndian.AppendUint64(dst, t.Dot.Incarnation)
		dst = binary.LittleEndian.AppendUint64(dst, t.Dot.Sequence)
		dst = binary.LittleEndian.AppendUint64(dst, t.Base)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(t.Timestamp))
		var flags byte
		if t.Delete {
			flags |= promotionDelete
		}
		dst = append(dst, flags)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(t.Key)))
		dst = append(dst, t.Key...)
		if !t.Delete {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(len(t.Bytes)))
			dst = append(dst, t.Bytes...)
		}
	}
	return dst, nil
}

// DecodePromotion reads one promotion, which must be all of b. Keys and values
// are parts of b, not copies.
func DecodePromotion(b []byte) (Promotion, error) { return decodePromotion(b, nil) }

func decodePromotion(b []byte, nodes *nodeNames) (Promotion, error) {
	if len(b) == 0 || b[0] != promotionFormat && b[0] != formerPromotionFormat {
		return Promotion{}, corrupt("promotion of unknown format")
	}
	d := decoder{rest: b[1:]}
	p := Promotion{Now: hlc.Timestamp(d.uint64()), limits: formerLimits}
	if b[0] == promotionFormat {
		p.Lived, p.limits = time.Duration(d.uint64()), d.ledgerLimits()
		if !d.short && (p.limits == ledgerLimits{} || p.limits.conflictAge < 0) {
			return Promotion{}, corrupt("promotion with limits %+v", p.limits)
		}
	}
	n := int(d.uint16())
	if n > len(d.rest)/promotionWriteFixedLen {
		return Promotion{}, corrupt("promotion of %d writes in %d bytes", n, len(b))
	}
	p.Writes = make([]Tentative, n)
	for i := range p.Writes {
		t := &p.Writes[i]
		t.Dot.Node = nodes.name(d.bytes(int(d.byte())))
		t.Dot.Incarnation, t.Dot.Sequence = d.uint64(), d.uint64()
		t.Base, t.Timestamp = d.uint64(), hlc.Timestamp(d.uint64())
		flags := d.byte()
		if flags&^promotionDelete != 0 {
			return Promotion{}, corrupt("promotion with unknown flags %#x", flags)
		}
		t.Delete = flags&promotionDelete != 0
		t.Key = d.bytes(int(d.uint16()))
		if !t.Delete {
			t.Bytes = d.bytes(int(d.uint32()))
		}
	}
	switch {
	case d.short:
		return Promotion{}, corrupt("promotion of %d bytes is cut short", len(b))
	case len(d.rest) != 0:
		return Promotion{}, corrupt("promotion with %d bytes behind it", len(d.rest))
	}
	if err := p.check(); err != nil {
		return Promotion{}, corrupt("%v", err)
	}
	return p, nil
}

// AppendFloor appends to dst a command that raises the partition's floor: no
// member holds an undecided write with a base below it, nor will it accept one.
// From then on every write with a lower base is superseded, and tombstones at
// or below the floor are removed, [MaxCollected] a command: the rest goes with
// the next one, which may name the same floor. A floor that is not above the
// present one raises nothing. One that is not below the index of its own entry
// counts as the index before it.
func AppendFloor(dst []byte, floor uint64) ([]byte, error) {
	if floor == 0 {
		return dst, errors.New("a floor of 0")
	}
	dst = binary.LittleEndian.AppendUint64(append(dst, floorFormat), floor)
	return binary.LittleEndian.AppendUint64(dst, collectLimit), nil
}

// AppendForfeit appends to dst a command that declares lost, for ever, those
// writes that node has accepted and that were not promoted so far.
func AppendForfeit(dst []byte, node partition.NodeID) ([]byte, error) {
	if len(node) == 0 || len(node) > MaxNodeIDBytes {
		return dst, fmt.Errorf("forfeit with a node id of %d bytes", len(node))
	}
	return append(append(dst, forfeitFormat, byte(len(node))), node...), nil
}

// anyCommand is a command as Apply takes it up: a single write, or another.
type anyCommand struct {
	Command
	other *otherCommand // nil for a single write
}

type otherCommand struct {
	format    byte
	promotion Promotion
	floor     uint64
	collect   uint64
	forfeit   partition.NodeID
	check     CheckID
}

func decodeAnyCommand(b []byte, nodes *nodeNames) (anyCommand, error) {
	if len(b) == 0 || b[0] < formerPromotionFormat || b[0] > checkFormat {
		c, err := decodeCommand(b, nodes)
		return anyCommand{Command: c}, err
	}
	o := &otherCommand{format: b[0]}
	d := decoder{rest: b[1:]}
	switch b[0] {
	case formerPromotionFormat, promotionFormat:
		p, err := decodePromotion(b, nodes)
		o.format, o.promotion = promotionFormat, p
		return anyCommand{other: o}, err
	case formerFloorFormat:
		o.format, o.floor, o.collect = floorFormat, d.uint64(), formerCollect
	case floorFormat:
		o.floor, o.collect = d.uint64(), d.uint64()
	case forfeitFormat:
		o.forfeit = nodes.name(d.bytes(int(d.byte())))
	case checkFormat:
		copy(o.check[:], d.bytes(len(o.check)))
	}
	if d.short || len(d.rest) != 0 || o.floor == 0 && o.forfeit == "" && o.check == (CheckID{}) {
		return anyCommand{}, corrupt("command of format %d and %d bytes", o.format, len(b))
	}
	return anyCommand{other: o}, nil
}

// looks says whether the command depends on what keys hold.
func (a *anyCommand) looks() bool { return a.other != nil || a.Command.looks() }

package reports

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/capstan-kv/capstan/partition"
)

// Kind is that of all messages of this package.
const Kind uint8 = 53

const (
	// MaxPolled bounds the partitions of one poll: so many may each need an
	// fsync at every member, shared as far as they come together.
	MaxPolled = 256
	// MaxRemoved bounds the removed nodes that one poll asks about; further ones
	// wait for the next.
	MaxRemoved = 16

	maxNodeID = 64 // bytes
)

// A message is a byte of version, one of the following, and its body. Numbers
// are varints, in their shortest form.
const (
	messageVersion = 2

	messageReport byte = 1 // answered by a verdict
	messagePoll   byte = 2 // answered by an Answer
)

// Verdicts on a report.
const (
	reportTaken byte = 1
	reportWhole byte = 2 // something before it is missing: send all of it
)

var errMessage = errors.New("report: not understood")

// Report is what one member tells of itself.
type Report struct {
	// Start counts the starts of the sender, from 1.
	Start uint64
	// Sequence rises in each start, from 1. The report tells all that has
	// changed between After, which is lower, and Sequence; if After is 0, all.
	Sequence, After uint64
	// Epoch is that of the ring that the sender knew.
	Epoch uint64
	// Entries are in order of their partitions.
	Entries []Entry
}

// Entry is what a member tells of one partition.
type Entry struct {
	Partition partition.ID
	// Heard is the highest committed index that it has heard of, and that a crash
	// cannot make it forget.
	Heard uint64
	// Generation is that of its replica; 0 if it has none. Durable is the index
	// up to which that replica has applied the log for good.
	Generation uint32
	Durable    uint64
}

// Question is what the leader of some partitions asks a member.
type Question struct {
	// Epoch is the least that the member must know of the ring.
	Epoch uint64
	// Partitions are asked about; in order.
	Partitions []partition.ID
	// Removed are nodes of which the leader wants to know whether the member
	// holds undecided writes; in order.
	Removed []partition.NodeID
}

// Answer is a member's answer to a [Question].
type Answer struct {
	// Bases are in order of their partitions. Partitions that the member can say
	// nothing about are left out; all of them, if it does not know the epoch.
	Bases []Base
}

// Base is a member's promise for one partition, see [Tentative.UndecidedBase].
type Base struct {
	Partition partition.ID
	Undecided uint64
	// Holds has a bit for each of the question's removed nodes: the member holds
	// undecided writes that this node has accepted.
	Holds uint16
}

func (r Report) encode() []byte {
	b := []byte{messageVersion, messageReport}
	b = binary.AppendUvarint(b, r.Start)
	b = binary.AppendUvarint(b, r.Sequence)
	b = binary.AppendUvarint(b, r.After)
	b = binary.AppendUvarint(b, r.Epoch)
	b = binary.AppendUvarint(b, uint64(len(r.Entries)))
	next := partition.ID(0)
	for _, e := range r.Entries {
		b = binary.AppendUvarint(b, uint64(e.Partition-next))
		next = e.Partition + 1
		b = binary.AppendUvarint(b, e.Heard)
		b = binary.AppendUvarint(b, uint64(e.Generation))
		if e.Generation > 0 {
			b = binary.AppendUvarint(b, e.Durable)
		}
	}
	return b
}

func (q Question) encode() []byte {
	b := []byte{messageVersion, messagePoll}
	b = binary.AppendUvarint(b, q.Epoch)
	b = binary.AppendUvarint(b, uint64(len(q.Partitions)))
	next := partition.ID(0)
	for _, p := range q.Partitions {
		b = binary.AppendUvarint(b, uint64(p-next))
		next = p + 1
	}
	b = append(b, byte(len(q.Removed)))
	for _, node := range q.Removed {
		b = append(append(b, byte(len(node))), node...)
	}
	return b
}

func (a Answer) encode() []byte {
	b := []byte{messageVersion}
	b = binary.AppendUvarint(b, uint64(len(a.Bases)))
	next := partition.ID(0)
	for _, base := range a.Bases {
		b = binary.AppendUvarint(b, uint64(base.Partition-next))
		next = base.Partition + 1
		b = binary.AppendUvarint(b, base.Undecided)
		b = binary.AppendUvarint(b, uint64(base.Holds))
	}
	return b
}

// decodeMessage reads a Report or a Question.
func decodeMessage(data []byte) (any, error) {
	d := decoder{data: data}
	if d.version(); d.bad {
		return nil, d.finish()
	}
	switch d.byte() {
	case messageReport:
		return d.report()
	case messagePoll:
		return d.question()
	}
	return nil, fmt.Errorf("%w: unknown message", errMessage)
}

func (d *decoder) report() (Report, error) {
	r := Report{Start: d.number(), Sequence: d.number(), After: d.number(), Epoch: d.number()}
	if r.Start == 0 || r.After >= r.Sequence {
		d.bad = true
	}
	next := partition.ID(0)
	for range d.count(partition.MaxCount) {
		e := Entry{Partition: d.partition(&next), Heard: d.number()}
		if generation := d.number(); generation > math.MaxUint32 {
			d.bad = true
		} else if e.Generation = uint32(generation); generation > 0 {
			e.Durable = d.number()
		}
		if d.bad {
			break
		}
		r.Entries = append(r.Entries, e)
	}
	return r, d.finish()
}

func (d *decoder) question() (Question, error) {
	q := Question{Epoch: d.number()}
	next := partition.ID(0)
	for range d.count(MaxPolled) {
		p := d.partition(&next)
		if d.bad {
			break
		}
		q.Partitions = append(q.Partitions, p)
	}
	removed := int(d.byte())
	for i := 0; i < removed && !d.bad; i++ {
		node := d.node()
		if removed > MaxRemoved || i > 0 && node <= q.Removed[i-1] {
			d.bad = true
		}
		q.Removed = append(q.Removed, node)
	}
	return q, d.finish()
}

// decodeAnswer reads the answer to q, and nothing that q has not asked for.
func decodeAnswer(q Question, data []byte) (Answer, error) {
	d := decoder{data: data}
	d.version()
	var a Answer
	next, asked := partition.ID(0), 0
	for range d.count(len(q.Partitions)) {
		base := Base{Partition: d.partition(&next), Undecided: d.number()}
		holds := d.number()
		if holds >= 1<<len(q.Removed) {
			d.bad = true
		}
		for asked < len(q.Partitions) && q.Partitions[asked] < base.Partition {
			asked++
		}
		if asked == len(q.Partitions) || q.Partitions[asked] != base.Partition {
			d.bad = true
		}
		if d.bad {
			break
		}
		base.Holds = uint16(holds)
		a.Bases = append(a.Bases, base)
	}
	return a, d.finish()
}

// decoder reads what the encode methods write; once something is wrong, all is.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) version() {
	if d.byte() != messageVersion {
		d.bad = true
	}
}

func (d *decoder) byte() byte {
	if d.bad || len(d.data) == 0 {
		d.bad = true
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

func (d *decoder) number() uint64 {
	if d.bad {
		return 0
	}
	v, n := binary.Uvarint(d.data)
	if n <= 0 || n > 1 && d.data[n-1] == 0 { // cut short, too large, or longer than it need be
		d.bad = true
		return 0
	}
	d.data = d.data[n:]
	return v
}

// count is a number of things, each of a byte at least.
func (d *decoder) count(most int) int {
	n := d.number()
	if n > uint64(most) || n > uint64(len(d.data)) {
		d.bad = true
		return 0
	}
	return int(n)
}

// partition reads one that is not below *next.
func (d *decoder) partition(next *partition.ID) partition.ID {
	gap := d.number()
	if gap >= partition.MaxCount || uint64(*next)+gap >= partition.MaxCount {
		d.bad = true
		return 0
	}
	p := *next + partition.ID(gap)
	*next = p + 1
	return p
}

func (d *decoder) node() partition.NodeID {
	n := int(d.byte())
	if d.bad || n == 0 || n > maxNodeID || n > len(d.data) {
		d.bad = true
		return ""
	}
	id := partition.NodeID(d.data[:n])
	d.data = d.data[n:]
	return id
}

func (d *decoder) finish() error {
	if d.bad || len(d.data) > 0 {
		return errMessage
	}
	return nil
}

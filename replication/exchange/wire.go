package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What nodes say to each other about tentative writes. The numbers are part of
// the protocol between nodes, and of the class that transports carry behind
// what keeps groups alive.
//
// A message is, with all numbers little endian and nothing behind it:
//
//	format (1) = 1 | partition (4) | the kind's own fields
//	store       flags (1) | writes
//	hand-in     writes
//	offer       set of dots
//	decide      flags (1) | set of dots
//
//	writes      count (4) | each: node length (1) | node | incarnation (8) |
//	            sequence (8) | base (8) | timestamp (8) | flags (1) |
//	            key length (2) | key | value length (4) | value
//
// and its answer
//
//	format (1) = 1 | status (1) | the kind's own fields
//	store       heard (8)
//	hand-in     index (8) | leader length (1) | leader | count (4) | fates: kind (1) each
//	offer       set of dots
//	decide      index (8) | set of dots
const (
	// KindStore gives writes to another holder, answered when they are on its disk.
	KindStore uint8 = 40
	// KindHandIn gives writes to the leader, answered when they are decided.
	KindHandIn uint8 = 41
	// KindOffer tells which writes the sender holds; the answer is those that
	// the receiver lacks and does not know to be decided.
	KindOffer uint8 = 42
	// KindDecide asks whether writes are decided, and by which index; the
	// answer has those of which the receiver does not know that.
	KindDecide uint8 = 43
)

const (
	wireFormat = 1

	// maxBatchWrites and maxBatchBytes bound the writes of a message, whatever
	// they are for: enough to make a message, an fsync and a log entry cheap a
	// write, and small beside a message's limit. A single write may be larger.
	maxBatchWrites = storage.MaxPromotionWrites
	maxBatchBytes  = storage.MaxPromotionBytes
	// maxOfferSpans bounds the runs of dots in a message: some hundred KiB.
	maxOfferSpans = 16 << 10

	writeHeaderBytes = 1 + 8 + 8 + 8 + 8 + 1 + 2 + 4 // and a node id, a key and a value
	minWriteBytes    = writeHeaderBytes + 1 + 1
)

// batchLimit is how much of a tentative log fits into a message.
var batchLimit = storage.TentativeLimit{Count: maxBatchWrites, Bytes: maxBatchBytes}

var errMessage = errors.New("malformed message")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", errMessage, fmt.Sprintf(format, a...))
}

var le = binary.LittleEndian

// status says what became of a request.
type status uint8

const (
	statusDone      status = 1
	statusFull      status = 2 // definite: no room
	statusForfeited status = 3 // definite: the accepting node was removed
	statusElsewhere status = 4 // definite: this node knows no such partition, or does not lead it
	statusBusy      status = 5 // definite: too much is waiting
	statusFailed    status = 6 // nobody knows
	statusLast             = statusFailed
)

func (s status) String() string {
	switch s {
	case statusDone:
		return "done"
	case statusFull:
		return "it has no room for tentative writes"
	case statusForfeited:
		return "the accepting node was removed from the cluster"
	case statusElsewhere:
		return "it does not lead the partition, or does not know of it"
	case statusBusy:
		return "too much is waiting there"
	case statusFailed:
		return "it failed"
	}
	return "unknown status"
}

const (
	flagDelete  byte = 1 << 0 // of a write
	flagHandIn  byte = 1 << 0 // of a store message: hand in at once
	flagPromote byte = 1 << 0 // of a decide message: hand in first what is held
)

// decoder takes fields off the front of rest; after the first that is not
// there, bad is set and all others are zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.bytes(2); b != nil {
		return le.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.bytes(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.bytes(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// flag is a byte of which only one bit has a meaning.
func (d *decoder) flag(bit byte) bool {
	b := d.u8()
	d.bad = d.bad || b&^bit != 0
	return b&bit != 0 && !d.bad
}

func (d *decoder) format() {
	d.bad = d.u8() != wireFormat || d.bad
}

func (d *decoder) request() partition.ID {
	d.format()
	return partition.ID(d.u32())
}

func (d *decoder) status() status {
	d.format()
	s := status(d.u8())
	d.bad = d.bad || s == 0 || s > statusLast
	return s
}

// end is the error of a message that has been read.
func (d *decoder) end(what string) error {
	switch {
	case d.bad:
		return malformed("%s is cut short, or has a value that nobody sends", what)
	case len(d.rest) != 0:
		return malformed("%s with %d bytes behind it", what, len(d.rest))
	}
	return nil
}

// dots reads a set, which is the rest of a message.
func (d *decoder) dots() *storage.DotSet {
	if d.bad {
		return nil
	}
	s, err := storage.DecodeDotSet(d.rest)
	if err != nil || s.Spans() > maxOfferSpans {
		d.bad = true
		return nil
	}
	d.rest = nil
	return s
}

func newRequest(p partition.ID, room int) []byte {
	b := append(make([]byte, 0, 5+room), wireFormat)
	return le.AppendUint32(b, uint32(p))
}

func newAnswer(s status) []byte { return []byte{wireFormat, byte(s)} }

func flags(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func writesSize(writes []storage.TentativeWrite) int {
	n := 4
	for i := range writes {
		w := &writes[i]
		n += writeHeaderBytes + len(w.Dot.Node) + len(w.Key) + len(w.Bytes)
	}
	return n
}

func appendWrites(b []byte, writes []storage.TentativeWrite) []byte {
	b = le.AppendUint32(b, uint32(len(writes)))
	for i := range writes {
		w := &writes[i]
		b = append(b, byte(len(w.Dot.Node)))
		b = append(b, w.Dot.Node...)
		b = le.AppendUint64(b, w.Dot.Incarnation)
		b = le.AppendUint64(b, w.Dot.Sequence)
		b = le.AppendUint64(b, w.Base)
		b = le.AppendUint64(b, uint64(w.Timestamp))
		b = append(b, flags(w.Delete, flagDelete))
		b = le.AppendUint16(b, uint16(len(w.Key)))
		b = append(b, w.Key...)
		b = le.AppendUint32(b, uint32(len(w.Bytes)))
		b = append(b, w.Bytes...)
	}
	return b
}

// writes reads at most maxBatchWrites, at least one. Keys and values are parts
// of the message.
func (d *decoder) writes() []storage.TentativeWrite {
	n := int(d.u32())
	if d.bad || n == 0 || n > maxBatchWrites || n > len(d.rest)/minWriteBytes {
		d.bad = true
		return nil
	}
	writes := make([]storage.TentativeWrite, n)
	var node partition.NodeID // as a rule all are of one node: one string for all
	for i := range writes {
		w := &writes[i]
		if name := d.bytes(int(d.u8())); string(name) != string(node) {
			node = partition.NodeID(name)
		}
		w.Dot = storage.Dot{Node: node, Incarnation: d.u64(), Sequence: d.u64()}
		w.Base, w.Timestamp = d.u64(), hlc.Timestamp(d.u64())
		w.Delete = d.flag(flagDelete)
		w.Key = d.bytes(int(d.u16()))
		if n := d.u32(); n > storage.MaxValueBytes {
			d.bad = true
		} else if n > 0 {
			w.Bytes = d.bytes(int(n))
		}
		d.bad = d.bad || node == "" || w.Dot.Sequence == 0 || w.Base == math.MaxUint64 ||
			len(w.Key) == 0 || len(w.Key) > storage.MaxKeyBytes || w.Delete && w.Bytes != nil
		if d.bad {
			return nil
		}
	}
	return writes
}

// storeRequest gives writes to a holder.
type storeRequest struct {
	partition partition.ID
	handIn    bool
	writes    []storage.TentativeWrite
}

func (m storeRequest) encode() []byte {
	b := newRequest(m.partition, 1+writesSize(m.writes))
	return appendWrites(append(b, flags(m.handIn, flagHandIn)), m.writes)
}

func decodeStoreRequest(b []byte) (m storeRequest, err error) {
	d := decoder{rest: b}
	m.partition = d.request()
	m.handIn = d.flag(flagHandIn)
	m.writes = d.writes()
	return m, d.end("store message")
}

type storeAnswer struct {
	status status
	heard  uint64 // the highest committed index that the node knows of
}

func (m storeAnswer) encode() []byte { return le.AppendUint64(newAnswer(m.status), m.heard) }

func decodeStoreAnswer(b []byte) (m storeAnswer, err error) {
	d := decoder{rest: b}
	m.status, m.heard = d.status(), d.u64()
	return m, d.end("store answer")
}

// handInRequest gives writes to a leader.
type handInRequest struct {
	partition partition.ID
	writes    []storage.TentativeWrite
}

func (m handInRequest) encode() []byte {
	return appendWrites(newRequest(m.partition, writesSize(m.writes)), m.writes)
}

func decodeHandInRequest(b []byte) (m handInRequest, err error) {
	d := decoder{rest: b}
	m.partition = d.request()
	m.writes = d.writes()
	return m, d.end("hand-in")
}

// handInAnswer says what became of writes.
type handInAnswer struct {
	status status
	index  uint64 // all that is not pending is decided at or below it
	leader partition.NodeID
	fates  []storage.FateKind // with statusDone one a write, in order
}

func (m handInAnswer) encode() []byte {
	b := le.AppendUint64(newAnswer(m.status), m.index)
	b = append(append(b, byte(len(m.leader))), m.leader...)
	b = le.AppendUint32(b, uint32(len(m.fates)))
	for _, f := range m.fates {
		b = append(b, byte(f))
	}
	return b
}

func decodeHandInAnswer(b []byte) (m handInAnswer, err error) {
	d := decoder{rest: b}
	m.status, m.index = d.status(), d.u64()
	m.leader = partition.NodeID(d.bytes(int(d.u8())))
	n := d.u32()
	if n > maxBatchWrites {
		d.bad = true
	}
	if fates := d.bytes(int(n)); len(fates) > 0 {
		m.fates = make([]storage.FateKind, len(fates))
		for i, f := range fates {
			m.fates[i] = storage.FateKind(f)
			d.bad = d.bad || m.fates[i] < storage.FatePending || m.fates[i] > storage.FateLost
		}
	}
	return m, d.end("hand-in answer")
}

// offerRequest names writes that the sender holds.
type offerRequest struct {
	partition partition.ID
	dots      *storage.DotSet
}

func (m offerRequest) encode() []byte {
	return storage.AppendDotSet(newRequest(m.partition, 64), m.dots)
}

func decodeOfferRequest(b []byte) (m offerRequest, err error) {
	d := decoder{rest: b}
	m.partition = d.request()
	m.dots = d.dots()
	return m, d.end("offer")
}

// offerAnswer names those that the receiver wants.
type offerAnswer struct {
	status status
	dots   *storage.DotSet
}

func (m offerAnswer) encode() []byte { return storage.AppendDotSet(newAnswer(m.status), m.dots) }

func decodeOfferAnswer(b []byte) (m offerAnswer, err error) {
	d := decoder{rest: b}
	m.status, m.dots = d.status(), d.dots()
	return m, d.end("offer answer")
}

// decideRequest asks whether writes are decided.
type decideRequest struct {
	partition partition.ID
	promote   bool
	dots      *storage.DotSet
}

func (m decideRequest) encode() []byte {
	b := append(newRequest(m.partition, 64), flags(m.promote, flagPromote))
	return storage.AppendDotSet(b, m.dots)
}

func decodeDecideRequest(b []byte) (m decideRequest, err error) {
	d := decoder{rest: b}
	m.partition = d.request()
	m.promote = d.flag(flagPromote)
	m.dots = d.dots()
	return m, d.end("decide message")
}

// decideAnswer says that all of the dots asked for but left are decided, at
// index or below.
type decideAnswer struct {
	status status
	index  uint64
	left   *storage.DotSet
}

func (m decideAnswer) encode() []byte {
	return storage.AppendDotSet(le.AppendUint64(newAnswer(m.status), m.index), m.left)
}

func decodeDecideAnswer(b []byte) (m decideAnswer, err error) {
	d := decoder{rest: b}
	m.status, m.index, m.left = d.status(), d.u64(), d.dots()
	return m, d.end("decide answer")
}

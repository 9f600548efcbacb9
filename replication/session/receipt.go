package session

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Receipt names an eventual write to whoever wrote it, so that its fate can be
// asked of any node at any time.
type Receipt struct {
	Partition partition.ID
	Dot       storage.Dot
	// Base is the highest log index that the accepting node had heard of: no
	// state at or below it has decided the write.
	Base uint64
	// Timestamp is the write's. With Dot.Node it is the tentative version.
	Timestamp hlc.Timestamp
}

// Version is the write's own, as long as it is tentative.
func (r Receipt) Version() storage.Version {
	return storage.Version{Timestamp: r.Timestamp, Node: r.Dot.Node}
}

// receiptPrefix tells a reader what the text is.
const receiptPrefix = "wr_"

// maxReceiptBytes is more than any receipt has.
const maxReceiptBytes = 512

// What a receipt's text carries is
//
//	partition | node length (1) | node | incarnation (8) | sequence number |
//	base | timestamp (8)
//
// in the encodings of a token.

// EncodeReceipt is the receipt's text. The error says that there is no such
// write.
func (c *Codec) EncodeReceipt(r Receipt) (string, error) {
	switch {
	case r.Partition >= partition.MaxCount:
		return "", fmt.Errorf("receipt of partition %d of at most %d", r.Partition, partition.MaxCount)
	case len(r.Dot.Node) == 0 || len(r.Dot.Node) > storage.MaxNodeIDBytes || r.Dot.Sequence == 0:
		return "", fmt.Errorf("receipt of dot %s, which no node gives out", r.Dot)
	}
	return receiptPrefix + c.seal(forReceipt, r.append(c.open(64))), nil
}

func (r *Receipt) append(raw []byte) []byte {
	raw = binary.AppendUvarint(raw, uint64(r.Partition))
	raw = append(append(raw, byte(len(r.Dot.Node))), r.Dot.Node...)
	raw = binary.LittleEndian.AppendUint64(raw, r.Dot.Incarnation)
	raw = binary.AppendUvarint(raw, r.Dot.Sequence)
	raw = binary.AppendUvarint(raw, r.Base)
	return binary.LittleEndian.AppendUint64(raw, uint64(r.Timestamp))
}

// DecodeReceipt reads a receipt's text. The error is [ErrForeign] or
// [ErrMalformed]; a receipt that was never given is malformed.
func (c *Codec) DecodeReceipt(text string) (Receipt, error) {
	sealed, ok := strings.CutPrefix(text, receiptPrefix)
	if !ok || len(text) > maxReceiptBytes {
		return Receipt{}, fmt.Errorf("receipt: %w", ErrMalformed)
	}
	carried, err := c.unseal(forReceipt, sealed)
	if err != nil {
		return Receipt{}, fmt.Errorf("receipt: %w", err)
	}
	r, ok := decodeReceipt(carried)
	if !ok {
		return Receipt{}, fmt.Errorf("receipt: %w", ErrMalformed)
	}
	return r, nil
}

func decodeReceipt(b []byte) (Receipt, bool) {
	d := decoder{rest: b}
	p := d.uvarint()
	r := Receipt{
		Partition: partition.ID(p),
		Dot: storage.Dot{
			Node: partition.NodeID(d.bytes(int(d.byte()))), Incarnation: d.uint64(), Sequence: d.uvarint(),
		},
		Base: d.uvarint(), Timestamp: hlc.Timestamp(d.uint64()),
	}
	return r, !d.bad && len(d.rest) == 0 && p < partition.MaxCount && r.Dot.Node != "" && r.Dot.Sequence > 0
}

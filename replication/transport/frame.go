package transport

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame is one chunk of a message:
//
//	0   u32  payload length, at most maxChunk
//	4   u32  CRC-32C of bytes 8 to the end
//	8   u8   message type
//	9   u8   class
//	10  u8   flags: first chunk, last chunk
//	11  u8   zero
//	12  u64  id: correlates a request, or a stream, with its answers
//	20       payload
//
// All integers are little-endian. Chunks of one class follow each other, those
// of different classes interleave.
const (
	frameHeader = 20
	maxChunk    = 128 << 10
	flagFirst   = 1
	flagLast    = 2
)

type class uint8

const (
	control class = iota
	bulk
	snapshots
	classes
)

type messageType uint8

const (
	msgPing messageType = iota + 1
	msgCall
	msgCallAnswer
	msgCallCancel
	msgNotify
	msgRaft
	msgRaftAnswer
	msgHeartbeats
	msgHeartbeatAnswers
	msgSnapshotOpen
	msgSnapshotData
	msgSnapshotEnd
	msgSnapshotAbort
	msgSnapshotAck
	msgIntroduce
	msgRefute
	msgTypes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	length, crc uint32
	typ         messageType
	class       class
	flags       uint8
	id          uint64
}

// appendFrame appends one frame to b.
func appendFrame(b []byte, typ messageType, c class, flags uint8, id uint64, payload []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, 0, 0, 0, 0, byte(typ), byte(c), flags, 0)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli))
	return b
}

func parseHeader(b *[frameHeader]byte) (header, error) {
	h := header{
		length: binary.LittleEndian.Uint32(b[0:]),
		crc:    binary.LittleEndian.Uint32(b[4:]),
		typ:    messageType(b[8]),
		class:  class(b[9]),
		flags:  b[10],
		id:     binary.LittleEndian.Uint64(b[12:]),
	}
	if h.length > maxChunk || h.typ == 0 || h.typ >= msgTypes || h.class >= classes || h.flags > flagFirst|flagLast || b[11] != 0 {
		return h, fmt.Errorf("%w: bad frame header", ErrProtocol)
	}
	return h, nil
}

// message is a whole one, as received. Its payload is the receiver's to keep.
type message struct {
	typ     messageType
	id      uint64
	payload []byte
}

// assembler reads frames and puts chunks together again.
type assembler struct {
	r       io.Reader
	head    [frameHeader]byte
	partial [classes]struct {
		open bool
		message
	}
	// heard is told of each frame; false drops it.
	heard func(bytes int) bool
}

// next reads up to the end of a message. An error is final.
func (a *assembler) next() (message, error) {
	for {
		if _, err := io.ReadFull(a.r, a.head[:]); err != nil {
			return message{}, err
		}
		h, err := parseHeader(&a.head)
		if err != nil {
			return message{}, err
		}
		p := &a.partial[h.class]
		first := h.flags&flagFirst != 0
		switch {
		case first == p.open:
			return message{}, fmt.Errorf("%w: chunk out of order", ErrProtocol)
		case first:
			p.open, p.message = true, message{typ: h.typ, id: h.id}
		case p.typ != h.typ || p.id != h.id:
			return message{}, fmt.Errorf("%w: chunk of another message", ErrProtocol)
		case len(p.payload)+int(h.length) > MaxMessage:
			return message{}, fmt.Errorf("%w: message over %d bytes", ErrProtocol, MaxMessage)
		}
		old := len(p.payload)
		if need := old + int(h.length); need > cap(p.payload) {
			grown := make([]byte, old, max(need, 2*cap(p.payload)))
			copy(grown, p.payload)
			p.payload = grown
		}
		p.payload = p.payload[:old+int(h.length)]
		if _, err := io.ReadFull(a.r, p.payload[old:]); err != nil {
			return message{}, err
		}
		crc := crc32.Update(crc32.Checksum(a.head[8:], castagnoli), castagnoli, p.payload[old:])
		if crc != h.crc {
			return message{}, fmt.Errorf("%w: wrong checksum", ErrProtocol)
		}
		allowed := a.heard == nil || a.heard(frameHeader+int(h.length))
		if h.flags&flagLast == 0 {
			continue
		}
		m := p.message
		p.open, p.message = false, message{}
		if allowed {
			return m, nil
		}
	}
}

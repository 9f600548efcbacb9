package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A stream carries one replica's state to another. It is a run of chunks,
//
//	length (4) | kind (1) | payload (length) | checksum (4)
//
// with all numbers little endian: a head, any number of record chunks, and an
// end. The checksum is a CRC-32C of the chunk's place in the stream (8), its
// length, kind and payload; with the place in it, a chunk that is lost,
// doubled or out of order shows at once, and the end's totals show a lost tail.
//
//	head:    magic (8) | stream format (4) | index (8) | term (8)
//	records: { key length (2) | value length (4) | key | value } ...
//	end:     records (8) | bytes of all record chunks' payload (8)
//
// Keys are relative to the replica, kind and rest, since the receiver's
// generation is another; they ascend strictly.
const (
	chunkHead    byte = 1
	chunkRecords byte = 2
	chunkEnd     byte = 3

	streamFormat = 2

	chunkHeaderLen  = 4 + 1
	chunkTrailerLen = 4
	recordHeaderLen = 2 + 4
	streamHeadLen   = 8 + 4 + 8 + 8
	streamEndLen    = 8 + 8

	// streamChunkBytes is a chunk's usual size: large enough that its frame
	// and checksum cost nothing, small enough to share a connection with
	// others' frames. A record above it has a chunk of its own.
	streamChunkBytes = 256 << 10
	// maxStreamRecordBytes is the largest record there can be, and so the
	// most that a receiver takes into memory for a length it is told.
	maxStreamRecordBytes = recordHeaderLen + max(
		1+MaxKeyBytes+valueFixedLen+MaxNodeIDBytes+valueDotLen+valueReplacedLen+MaxNodeIDBytes+MaxValueBytes,
		maxConflictKeyBytes+maxConflictRecordBytes,
	)
	maxStreamChunkBytes = max(streamChunkBytes, maxStreamRecordBytes)
)

var (
	streamMagic = [8]byte{'c', 'a', 'p', 's', 'v', 'i', 'e', 'w'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// chunkSum is the checksum of the chunk at place; framed is its header and payload.
func chunkSum(place uint64, framed []byte) uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], place)
	return crc32.Update(crc32.Update(0, castagnoli, at[:]), castagnoli, framed)
}

// streamWriter frames chunks. The chunk in hand is buffer, header included.
type streamWriter struct {
	w       io.Writer
	written int64
	place   uint64
	buffer  []byte
	records uint64
	bytes   uint64
}

func (s *streamWriter) begin(kind byte) {
	s.buffer = append(s.buffer[:0], 0, 0, 0, 0, kind)
}

func (s *streamWriter) finish() error {
	binary.LittleEndian.PutUint32(s.buffer, uint32(len(s.buffer)-chunkHeaderLen))
	s.buffer = binary.LittleEndian.AppendUint32(s.buffer, chunkSum(s.place, s.buffer))
	s.place++
	n, err := s.w.Write(s.buffer)
	s.written += int64(n)
	return err
}

func (s *streamWriter) head(at position) error {
	s.begin(chunkHead)
	s.buffer = append(s.buffer, streamMagic[:]...)
	s.buffer = binary.LittleEndian.AppendUint32(s.buffer, streamFormat)
	s.buffer = binary.LittleEndian.AppendUint64(s.buffer, at.index)
	s.buffer = binary.LittleEndian.AppendUint64(s.buffer, at.term)
	if err := s.finish(); err != nil {
		return err
	}
	s.begin(chunkRecords)
	return nil
}

func (s *streamWriter) record(key, value []byte) error {
	if len(s.buffer) > chunkHeaderLen && len(s.buffer)+recordHeaderLen+len(key)+len(value) > streamChunkBytes {
		if err := s.finishRecords(); err != nil {
			return err
		}
		s.begin(chunkRecords)
	}
	s.buffer = binary.LittleEndian.AppendUint16(s.buffer, uint16(len(key)))
	s.buffer = binary.LittleEndian.AppendUint32(s.buffer, uint32(len(value)))
	s.buffer = append(append(s.buffer, key...), value...)
	s.records++
	return nil
}

func (s *streamWriter) finishRecords() error {
	s.bytes += uint64(len(s.buffer) - chunkHeaderLen)
	return s.finish()
}

func (s *streamWriter) end() error {
	if len(s.buffer) > chunkHeaderLen {
		if err := s.finishRecords(); err != nil {
			return err
		}
	}
	s.begin(chunkEnd)
	s.buffer = binary.LittleEndian.AppendUint64(s.buffer, s.records)
	s.buffer = binary.LittleEndian.AppendUint64(s.buffer, s.bytes)
	return s.finish()
}

// streamReader checks chunks. It never reads beyond the end chunk.
type streamReader struct {
	r      io.Reader
	read   int64
	place  uint64
	buffer []byte
}

// chunk reads the next chunk; the payload is good until the next call.
func (s *streamReader) chunk() (kind byte, payload []byte, err error) {
	if err := s.fill(0, chunkHeaderLen); err != nil {
		return 0, nil, err
	}
	length := int(binary.LittleEndian.Uint32(s.buffer))
	if length > maxStreamChunkBytes {
		return 0, nil, corrupt("chunk %d of %d bytes", s.place, length)
	}
	framed := chunkHeaderLen + length
	if err := s.fill(chunkHeaderLen, framed+chunkTrailerLen); err != nil {
		return 0, nil, err
	}
	if binary.LittleEndian.Uint32(s.buffer[framed:]) != chunkSum(s.place, s.buffer[:framed]) {
		return 0, nil, corrupt("chunk %d has a wrong checksum", s.place)
	}
	s.place++
	return s.buffer[4], s.buffer[chunkHeaderLen:framed], nil
}

// fill reads bytes from up to to of the buffer.
func (s *streamReader) fill(from, to int) error {
	if cap(s.buffer) < to {
		grown := make([]byte, to, max(to, streamChunkBytes+chunkHeaderLen+chunkTrailerLen))
		copy(grown, s.buffer[:min(from, len(s.buffer))])
		s.buffer = grown
	}
	s.buffer = s.buffer[:to]
	n, err := io.ReadFull(s.r, s.buffer[from:])
	s.read += int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("chunk %d of the stream: %w", s.place, err)
	}
	return nil
}

// readStream reads one whole stream: head first, then each record in order.
func readStream(r io.Reader, head func(position) error, record func(key, value []byte) error) (int64, error) {
	s := streamReader{r: r}
	err := s.all(head, record)
	return s.read, err
}

func (s *streamReader) all(head func(position) error, record func(key, value []byte) error) error {
	kind, payload, err := s.chunk()
	if err != nil {
		return err
	}
	at, err := decodeStreamHead(kind, payload)
	if err != nil {
		return err
	}
	if err := head(at); err != nil {
		return err
	}
	var records, bytes uint64
	for {
		kind, payload, err := s.chunk()
		if err != nil {
			return err
		}
		switch kind {
		case chunkRecords:
			n, err := decodeRecords(payload, record)
			if err != nil {
				return fmt.Errorf("chunk %d of the stream: %w", s.place-1, err)
			}
			records, bytes = records+n, bytes+uint64(len(payload))
		case chunkEnd:
			if len(payload) != streamEndLen ||
				binary.LittleEndian.Uint64(payload) != records || binary.LittleEndian.Uint64(payload[8:]) != bytes {
				return corrupt("the stream's end does not agree with its %d records", records)
			}
			return nil
		default:
			return corrupt("chunk %d of the stream is of unknown kind %d", s.place-1, kind)
		}
	}
}

func decodeStreamHead(kind byte, payload []byte) (position, error) {
	if kind != chunkHead || len(payload) < 12 || [8]byte(payload) != streamMagic {
		return position{}, corrupt("not a stream of a view")
	}
	switch format := binary.LittleEndian.Uint32(payload[8:]); {
	case format > streamFormat:
		return position{}, fmt.Errorf("%w: the stream has format %d, this release knows up to %d", ErrNewerFormat, format, streamFormat)
	case format < streamFormat: // without the places of tombstones
		return position{}, corrupt("the stream has format %d, which is no longer read", format)
	}
	if len(payload) != streamHeadLen {
		return position{}, corrupt("stream head of %d bytes", len(payload))
	}
	return position{binary.LittleEndian.Uint64(payload[12:]), binary.LittleEndian.Uint64(payload[20:])}, nil
}

// decodeRecords hands on each record of a chunk, which must have one.
func decodeRecords(payload []byte, record func(key, value []byte) error) (n uint64, err error) {
	d := decoder{rest: payload}
	for {
		keyLen, valueLen := int(d.uint16()), int(d.uint32())
		key, value := d.bytes(keyLen), d.bytes(valueLen)
		if d.short {
			return n, corrupt("record chunk of %d bytes is cut short", len(payload))
		}
		if err := record(key, value); err != nil {
			return n, err
		}
		n++
		if len(d.rest) == 0 {
			return n, nil
		}
	}
}

package storage

import (
	"encoding/binary"
	"fmt"
)

// LogEntry is one entry of a replica's Raft log.
type LogEntry struct {
	Index, Term uint64
	// Type is the consensus library's own; storage does not look into it.
	Type uint8
	// AppendedAt is the leader's clock in Unix nanoseconds, 0 if unknown. It
	// orders nothing.
	AppendedAt       int64
	Data, Extensions []byte
}

// An entry's record; its index is in its key, and Pebble guards the bytes by a
// checksum of its own.
//
//	format:1 type:1 term:8 appendedAt:8 len(extensions):4 extensions data
const (
	logEntryFormat = 1
	logEntryHeader = 1 + 1 + 8 + 8 + 4
)

func (e *LogEntry) recordSize() int { return logEntryHeader + len(e.Extensions) + len(e.Data) }

// encodeInto fills b, which is recordSize long.
func (e *LogEntry) encodeInto(b []byte) {
	b[0] = logEntryFormat
	b[1] = e.Type
	binary.BigEndian.PutUint64(b[2:], e.Term)
	binary.BigEndian.PutUint64(b[10:], uint64(e.AppendedAt))
	binary.BigEndian.PutUint32(b[18:], uint32(len(e.Extensions)))
	n := copy(b[logEntryHeader:], e.Extensions)
	copy(b[logEntryHeader+n:], e.Data)
}

// AppendLogEntry appends e's record, which does not hold its index and has no checksum.
func AppendLogEntry(dst []byte, e *LogEntry) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, e.recordSize())...)
	e.encodeInto(dst[n:])
	return dst
}

// DecodeLogEntry reads what [AppendLogEntry] wrote; the entry does not keep b. Errors:
// [ErrLogCorrupt], [ErrLogNewerFormat].
func DecodeLogEntry(index uint64, b []byte) (LogEntry, error) { return decodeLogEntry(index, b) }

// decodeLogEntry reads a record; the entry does not keep b.
func decodeLogEntry(index uint64, b []byte) (LogEntry, error) {
	if len(b) < 1 {
		return LogEntry{}, fmt.Errorf("%w: entry %d is empty", ErrLogCorrupt, index)
	}
	if b[0] > logEntryFormat {
		return LogEntry{}, fmt.Errorf("%w: entry %d has format %d, known up to %d", ErrLogNewerFormat, index, b[0], logEntryFormat)
	}
	if b[0] != logEntryFormat || len(b) < logEntryHeader {
		return LogEntry{}, fmt.Errorf("%w: entry %d has format %d and %d bytes", ErrLogCorrupt, index, b[0], len(b))
	}
	extensions := uint64(binary.BigEndian.Uint32(b[18:]))
	if extensions > uint64(len(b)-logEntryHeader) {
		return LogEntry{}, fmt.Errorf("%w: entry %d claims %d bytes of extensions and has %d in all", ErrLogCorrupt, index, extensions, len(b))
	}
	e := LogEntry{
		Index:      index,
		Type:       b[1],
		Term:       binary.BigEndian.Uint64(b[2:]),
		AppendedAt: int64(binary.BigEndian.Uint64(b[10:])),
	}
	// One copy for both, each cut off so that an append to it can not reach the other.
	body := append([]byte(nil), b[logEntryHeader:]...)
	if extensions > 0 {
		e.Extensions = body[:extensions:extensions]
	}
	if rest := body[extensions:]; len(rest) > 0 {
		e.Data = rest
	}
	return e, nil
}

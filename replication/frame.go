package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What a group writes into a Raft log entry of type command. One byte says the
// format; the rest is
//
//	no-op:  nonce (16 bytes)
//	batch:  count (4), count lengths (4 each), the commands
//
// all numbers little endian. A decoder takes exactly what an encoder gives:
// nothing missing, nothing behind.
const (
	frameNoop  byte = 1
	frameBatch byte = 2
)

// nonce tells an own no-op from those of earlier leaders and earlier runs of
// this process: random at each attempt.
type nonce [16]byte

// A batch holds at most this much: large enough to spread the cost of an
// entry over many commands, small enough that MaxAppendEntries of them
// (16 MiB) make an append that a slow link carries within an election timeout
// or two. A single command may be larger, up to maxCommandBytes.
const (
	maxBatchBytes    = 256 << 10
	maxBatchCommands = 1024
	// maxCommandBytes is above the largest value (3 MiB) and its key (4 KiB).
	maxCommandBytes = 4 << 20
)

var errFrame = errors.New("malformed log entry")

func encodeNoop(n nonce) []byte { return append([]byte{frameNoop}, n[:]...) }

func encodeBatch(commands [][]byte) []byte {
	size := 5 + 4*len(commands)
	for _, c := range commands {
		size += len(c)
	}
	b := make([]byte, 5, size)
	b[0] = frameBatch
	binary.LittleEndian.PutUint32(b[1:], uint32(len(commands)))
	for _, c := range commands {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c)))
	}
	for _, c := range commands {
		b = append(b, c...)
	}
	return b
}

// frame is a decoded entry: a no-op if Noop is set, else a batch. Commands
// share memory with the input.
type frame struct {
	Noop     *nonce
	Commands [][]byte
}

func decodeFrame(b []byte) (frame, error) {
	if len(b) == 0 {
		return frame{}, fmt.Errorf("%w: empty", errFrame)
	}
	switch b[0] {
	case frameNoop:
		if len(b) != 1+len(nonce{}) {
			return frame{}, fmt.Errorf("%w: no-op of %d bytes", errFrame, len(b))
		}
		n := nonce(b[1:])
		return frame{Noop: &n}, nil
	case frameBatch:
		return decodeBatch(b[1:])
	}
	return frame{}, fmt.Errorf("%w: format %d", errFrame, b[0])
}

func decodeBatch(b []byte) (frame, error) {
	count, err := batchLen(b)
	if err != nil {
		return frame{}, err
	}
	commands := make([][]byte, 0, count)
	err = eachCommand(b, func(c []byte) error { commands = append(commands, c); return nil })
	if err != nil {
		return frame{}, err
	}
	return frame{Commands: commands}, nil
}

// batchLen is how many commands a batch says that it has.
func batchLen(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, fmt.Errorf("%w: batch cut short", errFrame)
	}
	count := int64(binary.LittleEndian.Uint32(b))
	if count == 0 || count > int64(len(b)-4)/4 {
		return 0, fmt.Errorf("%w: batch of %d commands in %d bytes", errFrame, count, len(b)-4)
	}
	return int(count), nil
}

// eachCommand calls do for each command of a batch, until do returns an error.
func eachCommand(b []byte, do func([]byte) error) error {
	count, err := batchLen(b)
	if err != nil {
		return err
	}
	lengths, body := b[4:4+4*count], b[4+4*count:]
	for i := range count {
		n := int64(binary.LittleEndian.Uint32(lengths[4*i:]))
		if n > int64(len(body)) {
			return fmt.Errorf("%w: command %d of %d bytes, %d left", errFrame, i, n, len(body))
		}
		if err := do(body[:n:n]); err != nil {
			return fmt.Errorf("command %d: %w", i, err)
		}
		body = body[n:]
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes behind the last command", errFrame, len(body))
	}
	return nil
}

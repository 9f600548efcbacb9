package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Limits of what a command may carry.
const (
	// MaxKeyBytes bounds a key; the public interface has the same limit.
	MaxKeyBytes = 4 << 10
	// MaxValueBytes bounds a value. A message is at most 4 MiB, and the value
	// must fit into one with its key and the message's other fields.
	MaxValueBytes = 3 << 20
	// MaxNodeIDBytes bounds a node id: its length is stored in one byte.
	MaxNodeIDBytes = 255
)

// CommandKind says what a command does.
type CommandKind uint8

const (
	CommandPut    CommandKind = 1
	CommandDelete CommandKind = 2
)

// CommandLevel says how the write was accepted.
type CommandLevel uint8

// LevelLinearizable is a write that goes through the leader. Eventual ones come
// as a [Promotion].
const LevelLinearizable CommandLevel = 1

// ConditionKind says what must hold for a command to take effect.
type ConditionKind uint8

const (
	ConditionNone    ConditionKind = 0
	ConditionAbsent  ConditionKind = 1 // no value, or a tombstone
	ConditionPresent ConditionKind = 2
	ConditionVersion ConditionKind = 3 // present, with exactly this version
)

// Condition is judged where the command is applied. Version is for
// ConditionVersion alone and zero otherwise.
type Condition struct {
	Kind    ConditionKind
	Version Version
}

// holds reports whether c allows a write over a key that is present, with
// version current, or absent.
func (c Condition) holds(present bool, current Version) bool {
	switch c.Kind {
	case ConditionAbsent:
		return !present
	case ConditionPresent:
		return present
	case ConditionVersion:
		return present && current == c.Version
	default:
		return true
	}
}

// Command is one write on its way through the log.
type Command struct {
	Kind      CommandKind
	Level     CommandLevel
	Condition Condition
	// Timestamp and Node are the write's half of its version; the log gives
	// the index.
	Timestamp hlc.Timestamp
	Node      partition.NodeID
	Key       []byte
	Value     []byte // none for a delete
}

// CommandResult is what a command came to when it was applied.
type CommandResult struct {
	// Version is the write's version; zero if its condition failed. For a check it has
	// the index of its entry.
	Version Version
	// Existed says whether the key had a value before. It is told of deletes
	// and of writes with a condition only: a plain put does not look.
	Existed bool
	// ConditionFailed means that nothing was written.
	ConditionFailed bool
	// Current is the version that made a condition fail; nil if the key was
	// absent, or if no condition failed.
	Current *Version
	// Promoted is set for a promotion, and for it alone; all else is zero then.
	Promoted *PromotionResult
}

// A command is
//
//	format (1) = 1 | kind (1) | level (1) | condition (1) | timestamp (8) |
//	node length (1) | node | key length (2) | key
//	condition version only: index (8) | timestamp (8) | node length (1) | node
//	put only: value length (4) | value
//
// with all numbers little endian, and nothing after it.
const commandFormat = 1

// check refuses what could not be applied: the log must never hold it.
func (c *Command) check() error {
	switch {
	case c.Kind != CommandPut && c.Kind != CommandDelete:
		return fmt.Errorf("command of unknown kind %d", c.Kind)
	case c.Level != LevelLinearizable:
		return fmt.Errorf("command of unknown level %d", c.Level)
	case c.Condition.Kind > ConditionVersion:
		return fmt.Errorf("command with unknown condition %d", c.Condition.Kind)
	case len(c.Node) == 0 || len(c.Node) > MaxNodeIDBytes:
		return fmt.Errorf("command with a node id of %d bytes", len(c.Node))
	case len(c.Key) == 0 || len(c.Key) > MaxKeyBytes:
		return fmt.Errorf("command with a key of %d bytes", len(c.Key))
	case c.Kind == CommandDelete && len(c.Value) != 0:
		return fmt.Errorf("delete with a value of %d bytes", len(c.Value))
	case len(c.Value) > MaxValueBytes:
		return fmt.Errorf("command with a value of %d bytes", len(c.Value))
	case c.Condition.Kind != ConditionVersion && !c.Condition.Version.IsZero():
		return fmt.Errorf("command with a version but no condition on it")
	case len(c.Condition.Version.Node) > MaxNodeIDBytes:
		return fmt.Errorf("condition with a node id of %d bytes", len(c.Condition.Version.Node))
	}
	return nil
}

// AppendCommand appends the encoding of c to dst. The error says why c can not
// be applied; dst comes back unchanged then.
func AppendCommand(dst []byte, c Command) ([]byte, error) {
	if err := c.check(); err != nil {
		return dst, err
	}
	dst = append(dst, commandFormat, byte(c.Kind), byte(c.Level), byte(c.Condition.Kind))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Timestamp))
	dst = append(dst, byte(len(c.Node)))
	dst = append(dst, c.Node...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c.Key)))
	dst = append(dst, c.Key...)
	if v := c.Condition.Version; c.Condition.Kind == ConditionVersion {
		dst = binary.LittleEndian.AppendUint64(dst, v.Index)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Timestamp))
		dst = append(dst, byte(len(v.Node)))
		dst = append(dst, v.Node...)
	}
	if c.Kind == CommandPut {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(c.Value)))
		dst = append(dst, c.Value...)
	}
	return dst, nil
}

// DecodeCommand reads one command, which must be all of b. Key and Value are
// parts of b, not copies.
func DecodeCommand(b []byte) (Command, error) { return decodeCommand(b, nil) }

func decodeCommand(b []byte, nodes *nodeNames) (Command, error) {
	if len(b) == 0 || b[0] != commandFormat {
		return Command{}, corrupt("command of unknown format")
	}
	d := decoder{rest: b[1:]}
	var c Command
	c.Kind = CommandKind(d.byte())
	c.Level = CommandLevel(d.byte())
	c.Condition.Kind = ConditionKind(d.byte())
	c.Timestamp = hlc.Timestamp(d.uint64())
	c.Node = nodes.name(d.bytes(int(d.byte())))
	c.Key = d.bytes(int(d.uint16()))
	if c.Condition.Kind == ConditionVersion {
		c.Condition.Version.Index = d.uint64()
		c.Condition.Version.Timestamp = hlc.Timestamp(d.uint64())
		c.Condition.Version.Node = nodes.name(d.bytes(int(d.byte())))
	}
	if c.Kind == CommandPut {
		c.Value = d.bytes(int(d.uint32()))
	}
	switch {
	case d.short:
		return Command{}, corrupt("command of %d bytes is cut short", len(b))
	case len(d.rest) != 0:
		return Command{}, corrupt("command with %d bytes behind it", len(d.rest))
	}
	if err := c.check(); err != nil {
		return Command{}, corrupt("%v", err)
	}
	return c, nil
}

// decoder takes fields off the front of rest; after the first that is not
// there, short is set and all others are zero.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) bytes(n int) []byte {
	if d.short || n < 0 || n > len(d.rest) {
		d.short = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

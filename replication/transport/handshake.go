package transport

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/capstan-kv/capstan/partition"
)

// A handshake message is a prefix that no version changes (magic, version,
// length of the rest) and a body: a verdict (zero in the dialer's), the
// [Hello], and a text that explains a refusal.
const (
	magic           = 0x4e545043 // "CPTN"
	protocolVersion = 2
	helloPrefix     = 8
	maxHello        = 1 << 10
	maxName         = 128
	maxText         = 255
)

type verdict uint8

const (
	accepted verdict = iota
	refusedVersion
	refusedPeer
	refusedAdmit
	refusedUseMine
	refusedClosed
	refusedRemoved
	refusedOutdated
)

type greeting struct {
	version uint16
	verdict verdict
	hello   Hello
	text    string
}

func appendText(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	return append(append(b, byte(len(s))), s...)
}

func (g greeting) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, magic)
	b = binary.LittleEndian.AppendUint16(b, g.version)
	b = append(b, 0, 0, byte(g.verdict))
	b = appendText(b, g.hello.Cluster, maxName)
	b = appendText(b, string(g.hello.From), maxName)
	b = appendText(b, string(g.hello.To), maxName)
	b = binary.LittleEndian.AppendUint64(b, g.hello.Incarnation)
	b = binary.LittleEndian.AppendUint64(b, g.hello.Start)
	b = appendText(b, g.text, maxText)
	binary.LittleEndian.PutUint16(b[6:], uint16(len(b)-helloPrefix))
	return b
}

// readGreeting reads one. Of another version only the version is read.
func readGreeting(r io.Reader) (greeting, error) {
	var prefix [helloPrefix]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return greeting{}, err
	}
	if binary.LittleEndian.Uint32(prefix[:]) != magic {
		return greeting{}, fmt.Errorf("%w: not a capstan peer", ErrProtocol)
	}
	g := greeting{version: binary.LittleEndian.Uint16(prefix[4:])}
	size := binary.LittleEndian.Uint16(prefix[6:])
	if size > maxHello {
		return g, fmt.Errorf("%w: handshake of %d bytes", ErrProtocol, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return g, err
	}
	if g.version != protocolVersion {
		return g, fmt.Errorf("%w: %d there, %d here", ErrVersion, g.version, protocolVersion)
	}
	d := decoder{b: body}
	g.verdict = verdict(d.u8())
	g.hello.Cluster = d.text(maxName)
	g.hello.From = partition.NodeID(d.text(maxName))
	g.hello.To = partition.NodeID(d.text(maxName))
	g.hello.Incarnation = d.u64()
	g.hello.Start = d.u64()
	g.text = d.text(maxText)
	return g, d.finish()
}

// refusal is the dialer's error for a verdict.
func (g greeting) refusal() error {
	switch g.verdict {
	case accepted:
		return nil
	case refusedVersion:
		return fmt.Errorf("%w: %d there, %d here", ErrVersion, g.version, protocolVersion)
	case refusedPeer:
		return ErrWrongPeer
	case refusedAdmit:
		return fmt.Errorf("%w: the log of that node says why", ErrNotAdmitted)
	case refusedRemoved:
		return fmt.Errorf("%w: %w", ErrNotAdmitted, ErrRemoved)
	case refusedOutdated:
		return fmt.Errorf("%w: %w", ErrNotAdmitted, ErrOutdated)
	case refusedUseMine:
		return errUseMine
	case refusedClosed:
		return fmt.Errorf("%w: there", ErrClosed)
	}
	return fmt.Errorf("%w: verdict %d", ErrProtocol, g.verdict)
}

// decoder reads fixed layouts; after a short read everything is zero and
// finish tells.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u8() uint8 {
	if v := d.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if v := d.bytes(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if v := d.bytes(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (d *decoder) bool() bool {
	v := d.u8()
	d.bad = d.bad || v > 1
	return v == 1
}

func (d *decoder) text(limit int) string {
	n := int(d.u8())
	if n > limit {
		d.bad = true
	}
	return string(d.bytes(n))
}

// finish is an error if anything was missing or is left.
func (d *decoder) finish() error {
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("%w: malformed message", ErrProtocol)
	}
	return nil
}

package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/capstan-kv/capstan/storage/hlc"
)

// What one node tells another about a key, or a range of keys, is
//
//	read: format (1) = 1 | state | entry
//	page: format (1) = 1 | state | more (1) | if so: next length (2) | next |
//	      entries (4) | each entry
//
//	state: with state (1) | applied (8) | floor (8) | fate floor (8)
//	entry: flags (1) | key length (2) | key |
//	  if held: record length (4) | value record (see [Value])
//	  candidates (2) | each: flags (1) | node length (1) | node | incarnation (8) |
//	    sequence (8) | base (8) | timestamp (8) | if read: value length (4) | value
//
// with all numbers little endian. What wins is not told: who reads it decides
// again, by the same rules. So what is held has no value in it where a
// tentative write wins.
const (
	localFormat = 1

	localHeld      byte = 1 << 0
	localHeldValue byte = 1 << 1 // the value of what is held was read

	localDelete byte = 1 << 0
	localValue  byte = 1 << 1 // the value was read

	localEntryMinLen     = 1 + 2 + 1 + 2
	localCandidateMinLen = 1 + 1 + 1 + 8 + 8 + 8 + 8

	// maxLocalCandidates bounds the candidates of one key, which each have a
	// higher base and a lower timestamp than the one before: about one a node.
	maxLocalCandidates = 1024
)

// AppendLocalRead appends the encoding of r to dst.
func AppendLocalRead(dst []byte, r *LocalRead) []byte {
	dst = append(dst, localFormat)
	dst = r.LocalState.append(dst)
	return r.LocalEntry.append(dst)
}

// AppendLocalPage appends the encoding of p to dst.
func AppendLocalPage(dst []byte, p *LocalPage) []byte {
	dst = append(dst, localFormat)
	dst = p.LocalState.append(dst)
	dst = append(dst, flag(p.More, 1))
	if p.More {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(p.Next)))
		dst = append(dst, p.Next...)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(p.Entries)))
	for i := range p.Entries {
		dst = p.Entries[i].append(dst)
	}
	return dst
}

func flag(on bool, f byte) byte {
	if on {
		return f
	}
	return 0
}

func (s *LocalState) append(dst []byte) []byte {
	dst = append(dst, flag(s.State, 1))
	dst = binary.LittleEndian.AppendUint64(dst, s.Applied)
	dst = binary.LittleEndian.AppendUint64(dst, s.Floor)
	return binary.LittleEndian.AppendUint64(dst, s.FateFloor)
}

func (e *LocalEntry) append(dst []byte) []byte {
	valued := e.Held != nil && e.Held.Bytes != nil && !e.Held.Tombstone && e.Tentative == nil
	dst = append(dst, flag(e.Held != nil, localHeld)|flag(valued, localHeldValue))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(e.Key)))
	dst = append(dst, e.Key...)
	if e.Held != nil {
		v := *e.Held
		if !valued {
			v.Bytes = nil
		}
		n := v.encodedLen()
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		at := len(dst)
		dst = append(dst, make([]byte, n)...)
		v.encodeTo(dst[at:])
	}
	candidates := e.Candidates[:min(len(e.Candidates), maxLocalCandidates)]
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(candidates)))
	for i := range candidates {
		dst = candidates[i].appendLocal(dst)
	}
	return dst
}

func (t *Tentative) appendLocal(dst []byte) []byte {
	valued := t.Bytes != nil && !t.Delete
	dst = append(dst, flag(t.Delete, localDelete)|flag(valued, localValue), byte(len(t.Dot.Node)))
	dst = append(dst, t.Dot.Node...)
	dst = binary.LittleEndian.AppendUint64(dst, t.Dot.Incarnation)
	dst = binary.LittleEndian.AppendUint64(dst, t.Dot.Sequence)
	dst = binary.LittleEndian.AppendUint64(dst, t.Base)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(t.Timestamp))
	if valued {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(t.Bytes)))
		dst = append(dst, t.Bytes...)
	}
	return dst
}

// DecodeLocalRead reads one read, which must be all of b, and decides what it
// shows. Keys and values are parts of b, not copies. The error is [ErrCorrupt].
func DecodeLocalRead(b []byte) (LocalRead, error) {
	d, err := newLocalDecoder(b)
	if err != nil {
		return LocalRead{}, err
	}
	r := LocalRead{LocalState: d.state()}
	if r.LocalEntry, err = d.entry(r.LocalState); err != nil {
		return LocalRead{}, err
	}
	return r, d.done("local read")
}

// DecodeLocalPage reads one page, as DecodeLocalRead does a read.
func DecodeLocalPage(b []byte) (LocalPage, error) {
	d, err := newLocalDecoder(b)
	if err != nil {
		return LocalPage{}, err
	}
	p := LocalPage{LocalState: d.state(), More: d.bool()}
	if p.More {
		p.Next = d.bytes(int(d.uint16()))
	}
	n := int(d.uint32())
	if n > len(d.rest)/localEntryMinLen {
		return LocalPage{}, corrupt("local page of %d entries in %d bytes", n, len(b))
	}
	if n > 0 {
		p.Entries = make([]LocalEntry, 0, n)
	}
	for range n {
		e, err := d.entry(p.LocalState)
		switch last := len(p.Entries) - 1; {
		case err != nil:
			return LocalPage{}, err
		case last >= 0 && bytes.Compare(p.Entries[last].Key, e.Key) >= 0:
			return LocalPage{}, corrupt("local page with key %q after %q", e.Key, p.Entries[last].Key)
		case e.Held == nil && e.Candidates == nil:
			return LocalPage{}, corrupt("local page with nothing of key %q", e.Key)
		}
		p.Entries = append(p.Entries, e)
	}
	switch last := len(p.Entries) - 1; {
	case p.More && (len(p.Next) == 0 || len(p.Next) > MaxKeyBytes+1),
		p.More && last >= 0 && bytes.Compare(p.Entries[last].Key, p.Next) >= 0:
		return LocalPage{}, corrupt("local page that goes on at %q", p.Next)
	}
	return p, d.done("local page")
}

type localDecoder struct {
	decoder
	nodes nodeNames
	odd   bool // a flag that is neither set nor not
}

func newLocalDecoder(b []byte) (*localDecoder, error) {
	if len(b) == 0 || b[0] != localFormat {
		return nil, corrupt("local answer of unknown format")
	}
	return &localDecoder{decoder: decoder{rest: b[1:]}}, nil
}

func (d *localDecoder) bool() bool {
	b := d.byte()
	d.odd = d.odd || b > 1
	return b == 1
}

func (d *localDecoder) state() LocalState {
	s := LocalState{State: d.bool(), Applied: d.uint64(), Floor: d.uint64(), FateFloor: d.uint64()}
	d.odd = d.odd || !s.State && (s.Applied != 0 || s.Floor != 0)
	return s
}

// done is an error unless all was read.
func (d *localDecoder) done(what string) error {
	if d.odd {
		return corrupt("%s with unknown flags", what)
	}
	return d.decoder.done(what)
}

func (d *localDecoder) entry(state LocalState) (LocalEntry, error) {
	flags := d.byte()
	e := LocalEntry{Key: d.bytes(int(d.uint16()))}
	switch {
	case d.short || len(e.Key) == 0 || len(e.Key) > MaxKeyBytes:
		return e, corrupt("local answer with a key of %d bytes", len(e.Key))
	case flags&^(localHeld|localHeldValue) != 0 || flags == localHeldValue || !state.State && flags != 0:
		return e, corrupt("local answer with flags %#x that do not fit", flags)
	}
	if flags&localHeld != 0 {
		v, err := decodeValue(d.bytes(int(d.uint32())), &d.nodes)
		if err != nil {
			return e, err
		}
		valued := flags&localHeldValue != 0
		if valued && v.Tombstone || !valued && len(v.Bytes) > 0 {
			return e, corrupt("local answer with a value that is not said to be there, or the reverse")
		}
		if !valued {
			v.Bytes = nil
		}
		e.Held = &v
	}
	n := int(d.uint16())
	if n > maxLocalCandidates || n > len(d.rest)/localCandidateMinLen {
		return e, corrupt("local answer with %d candidates in %d bytes", n, len(d.rest))
	}
	for range n {
		t, err := d.candidate(e.Key)
		if err != nil {
			return e, err
		}
		if last := len(e.Candidates) - 1; last >= 0 && (t.Base <= e.Candidates[last].Base || t.order(&e.Candidates[last]) >= 0) {
			return e, corrupt("local answer with candidates out of order")
		}
		e.Candidates = append(e.Candidates, t)
	}
	e.decide(state.Floor)
	if e.Tentative != nil && flags&localHeldValue != 0 {
		return e, corrupt("local answer with the value of what does not win")
	}
	return e, nil
}

func (d *localDecoder) candidate(key []byte) (Tentative, error) {
	flags := d.byte()
	t := Tentative{Key: key, Delete: flags&localDelete != 0}
	t.Dot.Node = d.nodes.name(d.bytes(int(d.byte())))
	t.Dot.Incarnation, t.Dot.Sequence = d.uint64(), d.uint64()
	t.Base, t.Timestamp = d.uint64(), hlc.Timestamp(d.uint64())
	if flags == localValue {
		t.Bytes = d.bytes(int(d.uint32()))
		if t.Bytes == nil && !d.short {
			t.Bytes = []byte{}
		}
	}
	if d.short || flags&^(localDelete|localValue) != 0 || flags == localDelete|localValue {
		return t, corrupt("local answer with a candidate that is cut short or has flags %#x", flags)
	}
	if err := t.check(); err != nil {
		return t, corrupt("%v", err)
	}
	return t, nil
}

// String is for messages and tests.
func (r *LocalRead) String() string {
	return fmt.Sprintf("{state %t applied %d floor %d fates %d: %q = %q %v found %t, held %+v, candidates %+v}",
		r.State, r.Applied, r.Floor, r.FateFloor, r.Key, r.Bytes, r.Version, r.Found, r.Held, r.Candidates)
}

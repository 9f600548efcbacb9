package storage

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

func drawVersion(t *rapid.T) Version {
	return Version{
		Index:     rapid.Uint64Min(1).Draw(t, "index"),
		Timestamp: hlc.Timestamp(rapid.Uint64().Draw(t, "timestamp")),
		Node:      partition.NodeID(rapid.StringN(1, 40, 200).Draw(t, "node")),
	}
}

func drawCommand(t *rapid.T) Command {
	v := drawVersion(t)
	c := Command{
		Kind: CommandPut, Level: LevelLinearizable, Timestamp: v.Timestamp, Node: v.Node,
		Key: rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "key"),
	}
	c.Condition.Kind = ConditionKind(rapid.IntRange(0, 3).Draw(t, "condition"))
	if c.Condition.Kind == ConditionVersion {
		c.Condition.Version = drawVersion(t)
	}
	if rapid.Bool().Draw(t, "delete") {
		c.Kind = CommandDelete
	} else {
		c.Value = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
	}
	return c
}

func TestCommandRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCommand(t)
		encoded, err := AppendCommand([]byte("before"), c)
		ok(t, err)
		encoded = bytes.TrimPrefix(encoded, []byte("before"))
		back, err := DecodeCommand(encoded)
		ok(t, err)
		if len(back.Value) == 0 {
			back.Value = c.Value
		}
		if !reflect.DeepEqual(back, c) {
			t.Fatalf("%+v came back as %+v", c, back)
		}
		for cut := range encoded {
			if _, err := DecodeCommand(encoded[:cut]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut at %d of %d: %v", cut, len(encoded), err)
			}
		}
		if _, err := DecodeCommand(append(encoded, 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("one byte more: %v", err)
		}
	})
}

func TestAppendCommandRefusesWhatCouldNotBeApplied(t *testing.T) {
	for name, change := range map[string]func(*Command){
		"no kind":        func(c *Command) { c.Kind = 0 },
		"unknown kind":   func(c *Command) { c.Kind = 3 },
		"no level":       func(c *Command) { c.Level = 0 },
		"unknown level":  func(c *Command) { c.Level = 2 },
		"condition":      func(c *Command) { c.Condition.Kind = 4 },
		"stray version":  func(c *Command) { c.Condition.Version.Index = 1 },
		"no key":         func(c *Command) { c.Key = nil },
		"long key":       func(c *Command) { c.Key = make([]byte, MaxKeyBytes+1) },
		"long value":     func(c *Command) { c.Value = make([]byte, MaxValueBytes+1) },
		"no node":        func(c *Command) { c.Node = "" },
		"long node":      func(c *Command) { c.Node = partition.NodeID(make([]byte, MaxNodeIDBytes+1)) },
		"delete a value": func(c *Command) { c.Kind = CommandDelete },
	} {
		c := put("k", "v")
		change(&c)
		if b, err := AppendCommand([]byte{1}, c); err == nil || len(b) != 1 {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
	largest := put("k", "v")
	largest.Key, largest.Value = make([]byte, MaxKeyBytes), make([]byte, MaxValueBytes)
	if _, err := AppendCommand(nil, largest); err != nil {
		t.Errorf("the largest command: %v", err)
	}
}

func TestValueRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Value{Version: drawVersion(t), Tombstone: rapid.Bool().Draw(t, "tombstone"), Linearizable: rapid.Bool().Draw(t, "linearizable")}
		if v.Linearizable {
			v.LinearizableIndex = v.Version.Index
		} else {
			v.LinearizableIndex = rapid.Uint64Range(0, v.Version.Index).Draw(t, "linearizable index")
			v.Base = rapid.Uint64().Draw(t, "base")
			if rapid.Bool().Draw(t, "dot") { // there were none in the first format
				v.Dot = Dot{v.Version.Node, rapid.Uint64().Draw(t, "incarnation"), rapid.Uint64Min(1).Draw(t, "sequence")}
				if v.LinearizableIndex > 0 && rapid.Bool().Draw(t, "replaced") {
					v.Replaced = drawVersion(t)
					v.Replaced.Index = v.LinearizableIndex
				}
			}
		}
		v.Bytes = []byte{}
		if !v.Tombstone {
			v.Bytes = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		}
		b := make([]byte, v.encodedLen())
		v.encodeTo(b)
		back, err := decodeValue(b, nil)
		ok(t, err)
		if !reflect.DeepEqual(back, v) {
			t.Fatalf("%+v came back as %+v", v, back)
		}
	})
}

func FuzzCommand(f *testing.F) {
	for _, c := range []Command{put("k", "v"), del("\x00\xff"), put("k", "").ifVersion(Version{1, 2, "n1-abcd"}), put("k", "v").when(ConditionAbsent)} {
		encoded, err := AppendCommand(nil, c)
		ok(f, err)
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		// What is accepted has exactly one encoding.
		if again, err := AppendCommand(nil, c); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes as %x (%v)", b, again, err)
		}
	})
}

func FuzzValue(f *testing.F) {
	for _, v := range []Value{
		{Version: Version{3, 2, "n1-abcd"}, Linearizable: true, LinearizableIndex: 3, Bytes: []byte("x")},
		{Version: Version{3, 2, "n1-abcd"}, Tombstone: true, LinearizableIndex: 1, Base: 2},
		{Version: Version{3, 2, "n1-abcd"}, LinearizableIndex: 1, Base: 2, Dot: Dot{"n1-abcd", 7, 9}, Bytes: []byte("x")},
		{
			Version: Version{3, 2, "n1-abcd"}, LinearizableIndex: 1, Replaced: Version{1, 5, "n2-efgh"}, Base: 2,
			Dot: Dot{"n1-abcd", 7, 9}, Bytes: []byte("x"),
		},
	} {
		b := make([]byte, v.encodedLen())
		v.encodeTo(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeValue(b, nil)
		if err != nil {
			return
		}
		again := make([]byte, v.encodedLen())
		v.encodeTo(again)
		if !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes as %x", b, again)
		}
	})
}

func FuzzReplicaKey(f *testing.F) {
	f.Add(append(replicaPrefix(stateReplica), kindKey, 'k'))
	f.Add(append(replicaPrefix(stateReplica), kindApplied))
	f.Add(append(replicaPrefix(stateReplica), kindBlob))
	for _, key := range ledgerSeeds() {
		f.Add(append(replicaPrefix(stateReplica), key[0]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, kind, rest, err := decodeReplicaKey(b)
		if err != nil {
			return
		}
		if again := append(append(replicaPrefix(r), kind), rest...); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, but encodes as %x", b, again)
		}
	})
}

func FuzzStream(f *testing.F) {
	var b bytes.Buffer
	w := streamWriter{w: &b}
	ok(f, w.head(position{5, 1}))
	ok(f, w.record([]byte{kindKey, 'k'}, []byte("value")))
	ok(f, w.record([]byte{kindKey, 'l'}, nil))
	ok(f, w.end())
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		var at position
		var again bytes.Buffer
		w := streamWriter{w: &again}
		n, err := readStream(bytes.NewReader(b), func(p position) error { at = p; return w.head(p) }, w.record)
		if n > int64(len(b)) {
			t.Fatalf("read %d of %d bytes", n, len(b))
		}
		if err == nil && at == (position{}) && n < chunkHeaderLen {
			t.Fatal("a stream of nothing was taken")
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 0, 0, 'k', 'v'})
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		_, err := decodeRecords(b, func(key, value []byte) error {
			size += recordHeaderLen + len(key) + len(value)
			return nil
		})
		if err == nil && size != len(b) {
			t.Fatalf("records of %d bytes in a chunk of %d", size, len(b))
		}
	})
}

func FuzzBlobAndPosition(f *testing.F) {
	f.Add(encodeBlob(BlobRecord{3, 2, []byte("data")}))
	f.Add(position{3, 2}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if record, err := decodeBlob(b); err == nil && !bytes.Equal(encodeBlob(record), b) {
			t.Fatalf("blob %x", b)
		}
		if p, _, err := decodeApplied(b); err == nil && !bytes.Equal(p.append(nil)[1:], b[1:]) {
			t.Fatalf("position %x", b)
		}
	})
}

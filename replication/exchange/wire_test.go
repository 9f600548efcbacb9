package exchange

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// message is one kind of message: how it is drawn, and how it is read.
type message struct {
	name   string
	draw   func(*rapid.T) encoder
	decode func([]byte) (encoder, error)
}

type encoder interface{ encode() []byte }

func reader[M encoder](decode func([]byte) (M, error)) func([]byte) (encoder, error) {
	return func(b []byte) (encoder, error) {
		m, err := decode(b)
		return m, err
	}
}

var messages = []message{
	{"store", func(t *rapid.T) encoder {
		return storeRequest{drawPartition(t), rapid.Bool().Draw(t, "hand in"), drawWrites(t)}
	}, reader(decodeStoreRequest)},
	{"store answer", func(t *rapid.T) encoder {
		return storeAnswer{drawStatus(t), rapid.Uint64().Draw(t, "heard")}
	}, reader(decodeStoreAnswer)},
	{"hand-in", func(t *rapid.T) encoder {
		return handInRequest{drawPartition(t), drawWrites(t)}
	}, reader(decodeHandInRequest)},
	{"hand-in answer", func(t *rapid.T) encoder {
		m := handInAnswer{drawStatus(t), rapid.Uint64().Draw(t, "index"), drawNode(t, 0), nil}
		for range rapid.IntRange(0, 5).Draw(t, "fates") {
			m.fates = append(m.fates, storage.FateKind(rapid.IntRange(1, 5).Draw(t, "fate")))
		}
		return m
	}, reader(decodeHandInAnswer)},
	{"offer", func(t *rapid.T) encoder {
		return offerRequest{drawPartition(t), drawDots(t)}
	}, reader(decodeOfferRequest)},
	{"offer answer", func(t *rapid.T) encoder {
		return offerAnswer{drawStatus(t), drawDots(t)}
	}, reader(decodeOfferAnswer)},
	{"decide", func(t *rapid.T) encoder {
		return decideRequest{drawPartition(t), rapid.Bool().Draw(t, "promote"), drawDots(t)}
	}, reader(decodeDecideRequest)},
	{"decide answer", func(t *rapid.T) encoder {
		return decideAnswer{drawStatus(t), rapid.Uint64().Draw(t, "index"), drawDots(t)}
	}, reader(decodeDecideAnswer)},
}

func drawPartition(t *rapid.T) partition.ID { return partition.ID(rapid.Uint32().Draw(t, "partition")) }

func drawStatus(t *rapid.T) status {
	return status(rapid.IntRange(1, int(statusLast)).Draw(t, "status"))
}

func drawNode(t *rapid.T, least int) partition.NodeID {
	return partition.NodeID(rapid.SampledFrom([]string{"", "n", "node-1", strings.Repeat("x", 255)}[least:]).Draw(t, "node"))
}

func drawDots(t *rapid.T) *storage.DotSet {
	s := &storage.DotSet{}
	for range rapid.IntRange(0, 4).Draw(t, "ranges") {
		first := rapid.Uint64Range(1, 100).Draw(t, "first")
		if err := s.AddRange(storage.DotRange{
			Node: drawNode(t, 1), Incarnation: rapid.Uint64().Draw(t, "incarnation"),
			First: first, Last: first + rapid.Uint64Range(0, 10).Draw(t, "more"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func drawWrites(t *rapid.T) []storage.TentativeWrite {
	var writes []storage.TentativeWrite
	for range rapid.IntRange(1, 4).Draw(t, "writes") {
		w := storage.TentativeWrite{Tentative: storage.Tentative{
			Dot:       storage.Dot{Node: drawNode(t, 1), Incarnation: rapid.Uint64().Draw(t, "incarnation"), Sequence: rapid.Uint64Min(1).Draw(t, "sequence")},
			Base:      rapid.Uint64Max(math.MaxUint64-1).Draw(t, "base"),
			Timestamp: hlc.Timestamp(rapid.Uint64().Draw(t, "timestamp")),
			Delete:    rapid.Bool().Draw(t, "delete"),
			Key:       rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "key"),
		}}
		if value := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value"); !w.Delete && len(value) > 0 {
			w.Bytes = value
		}
		writes = append(writes, w)
	}
	return writes
}

func TestMessagesComeBack(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, rapid.MakeCheck(func(t *rapid.T) {
			sent := m.draw(t)
			b := sent.encode()
			got, err := m.decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if again := got.encode(); !bytes.Equal(again, b) {
				t.Fatalf("%+v came back as %+v", sent, got)
			}
			// Whatever is cut off, added or of another format is refused.
			cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
			for _, bad := range [][]byte{b[:cut], append(bytes.Clone(b), 0), append([]byte{2}, b[1:]...)} {
				if got, err := m.decode(bad); !errors.Is(err, errMessage) {
					t.Fatalf("%x was read as %+v, error %v", bad, got, err)
				}
			}
		}))
	}
}

func TestWritesComeBackWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := drawWrites(t)
		got, err := decodeHandInRequest(handInRequest{7, sent}.encode())
		if err != nil || got.partition != 7 || !reflect.DeepEqual(got.writes, sent) {
			t.Fatalf("%+v came back as %+v, error %v", sent, got, err)
		}
	})
}

func TestWritesThatNobodySendsAreRefused(t *testing.T) {
	good := func() storage.TentativeWrite {
		return storage.TentativeWrite{Tentative: storage.Tentative{
			Dot: storage.Dot{Node: "n", Incarnation: 1, Sequence: 1}, Key: []byte("k"), Bytes: []byte("v"),
		}}
	}
	if _, err := decodeHandInRequest(handInRequest{0, []storage.TentativeWrite{good()}}.encode()); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*storage.TentativeWrite){
		"no node":            func(w *storage.TentativeWrite) { w.Dot.Node = "" },
		"no sequence number": func(w *storage.TentativeWrite) { w.Dot.Sequence = 0 },
		"impossible base":    func(w *storage.TentativeWrite) { w.Base = math.MaxUint64 },
		"no key":             func(w *storage.TentativeWrite) { w.Key = nil },
		"long key":           func(w *storage.TentativeWrite) { w.Key = make([]byte, storage.MaxKeyBytes+1) },
		"long value":         func(w *storage.TentativeWrite) { w.Bytes = make([]byte, storage.MaxValueBytes+1) },
		"delete with value":  func(w *storage.TentativeWrite) { w.Delete = true },
	} {
		w := good()
		spoil(&w)
		if _, err := decodeHandInRequest(handInRequest{0, []storage.TentativeWrite{w}}.encode()); !errors.Is(err, errMessage) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for n, want := range map[int]error{0: errMessage, 1: nil, maxBatchWrites: nil, maxBatchWrites + 1: errMessage} {
		writes := make([]storage.TentativeWrite, n)
		for i := range writes {
			writes[i] = good()
		}
		if _, err := decodeHandInRequest(handInRequest{0, writes}.encode()); !errors.Is(err, want) {
			t.Errorf("%d writes: error %v, want %v", n, err, want)
		}
	}
}

// FuzzMessages: what a decoder takes is what would be sent in its place, so no
// two messages say the same, and nothing makes it panic or take up memory
// beyond what came.
func FuzzMessages(f *testing.F) {
	for kind, m := range messages {
		for seed := range 3 {
			f.Add(byte(kind), rapid.Custom(m.draw).Example(seed).encode())
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		m := messages[int(kind)%len(messages)]
		got, err := m.decode(b)
		if err != nil {
			if !errors.Is(err, errMessage) {
				t.Fatalf("%s: untyped error %v", m.name, err)
			}
			return
		}
		if again := got.encode(); !bytes.Equal(again, b) {
			t.Fatalf("%s: %x was read, and is written as %x", m.name, b, again)
		}
	})
}

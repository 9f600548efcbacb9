package reports

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"pgregory.net/rapid"
)

func drawPartitions(t *rapid.T, most int) []partition.ID {
	drawn := rapid.SliceOfNDistinct(rapid.Uint32Range(0, partition.MaxCount-1), 0, most, rapid.ID[uint32]).Draw(t, "partitions")
	in := map[partition.ID]bool{}
	for _, p := range drawn {
		in[partition.ID(p)] = true
	}
	var sorted []partition.ID
	for p := partition.ID(0); p < partition.MaxCount; p++ {
		if in[p] {
			sorted = append(sorted, p)
		}
	}
	return sorted
}

func drawReport(t *rapid.T) Report {
	r := Report{Start: rapid.Uint64Min(1).Draw(t, "start"), Sequence: rapid.Uint64Min(1).Draw(t, "sequence")}
	r.After, r.Epoch = rapid.Uint64Max(r.Sequence-1).Draw(t, "after"), rapid.Uint64().Draw(t, "epoch")
	for _, p := range drawPartitions(t, 20) {
		e := Entry{Partition: p, Heard: rapid.Uint64().Draw(t, "heard"), Generation: rapid.Uint32().Draw(t, "generation")}
		if e.Generation > 0 {
			e.Durable = rapid.Uint64().Draw(t, "durable")
		}
		r.Entries = append(r.Entries, e)
	}
	return r
}

func drawQuestion(t *rapid.T) Question {
	names := []partition.NodeID{"n1-aaaa", "n2-bbbb", "n3-cccc"}
	return Question{
		Epoch: rapid.Uint64().Draw(t, "epoch"), Partitions: drawPartitions(t, 20),
		Removed: append([]partition.NodeID(nil), names[:rapid.IntRange(0, 3).Draw(t, "removed")]...),
	}
}

// What is written is read, and what is cut short or longer is not.
func TestMessagesRoundTrip(t *testing.T) {
	same := func(t *rapid.T, got, want any, data []byte, decode func([]byte) (any, error), err error) {
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
		for _, bad := range [][]byte{append(bytes.Clone(data), 0), data[:len(data)-1], data[:rapid.IntRange(0, len(data)-1).Draw(t, "cut")]} {
			if again, err := decode(bad); err == nil {
				t.Fatalf("%x was read as %+v", bad, again)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		report := drawReport(t)
		data := report.encode()
		got, err := decodeMessage(data)
		same(t, got, report, data, decodeMessage, err)

		question := drawQuestion(t)
		data = question.encode()
		got, err = decodeMessage(data)
		same(t, got, question, data, decodeMessage, err)

		var answer Answer
		for _, p := range question.Partitions {
			if rapid.Bool().Draw(t, "answered") {
				answer.Bases = append(answer.Bases, Base{Partition: p, Undecided: rapid.Uint64().Draw(t, "base"),
					Holds: uint16(rapid.IntRange(0, 1<<len(question.Removed)-1).Draw(t, "holds"))})
			}
		}
		data = answer.encode()
		decode := func(b []byte) (any, error) { return decodeAnswer(question, b) }
		got, err = decode(data)
		same(t, got, answer, data, decode, err)
	})
}

func TestWhatNobodyWritesIsNotRead(t *testing.T) {
	report := Report{Start: 1, Sequence: 2, After: 1, Entries: []Entry{{Partition: 3, Heard: 4, Generation: 5, Durable: 6}}}
	for name, change := range map[string]func(*Report){
		"no start":               func(r *Report) { r.Start = 0 },
		"after itself":           func(r *Report) { r.After = 2 },
		"a far partition":        func(r *Report) { r.Entries[0].Partition = partition.MaxCount },
		"a far one by its gap":   func(r *Report) { r.Entries = append(r.Entries, Entry{Partition: partition.MaxCount}) },
		"a partition below zero": func(r *Report) { r.Entries[0].Partition = ^partition.ID(0) },
	} {
		bad := report
		bad.Entries = append([]Entry(nil), report.Entries...)
		change(&bad)
		if got, err := decodeMessage(bad.encode()); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	good := report.encode()
	if _, err := decodeMessage(good); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing":           {},
		"another version":   append([]byte{messageVersion - 1}, good[1:]...),
		"another message":   append([]byte{messageVersion, 9}, good[2:]...),
		"a long number":     {messageVersion, messageReport, 0x81, 0, 1, 0, 1, 0},
		"a huge number":     {messageVersion, messageReport, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"a huge generation": {messageVersion, messageReport, 1, 1, 0, 1, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x1f, 0},
		"a nameless node":   {messageVersion, messagePoll, 1, 0, 1, 0},
		"nodes twice":       Question{Removed: []partition.NodeID{"a", "a"}}.encode(),
		"a long name":       Question{Removed: []partition.NodeID{partition.NodeID(bytes.Repeat([]byte("n"), 65))}}.encode(),
		"too many nodes": Question{Removed: []partition.NodeID{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m",
			"n", "o", "p", "q"}}.encode(),
	} {
		if got, err := decodeMessage(bad); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	q := Question{Partitions: []partition.ID{1, 5}, Removed: []partition.NodeID{"a"}}
	for name, a := range map[string]Answer{
		"a partition that was not asked": {Bases: []Base{{Partition: 2}}},
		"one behind those asked":         {Bases: []Base{{Partition: 6}}},
		"one before those asked":         {Bases: []Base{{Partition: 0}}},
		"a node that was not asked":      {Bases: []Base{{Partition: 1, Holds: 2}}},
	} {
		if got, err := decodeAnswer(q, a.encode()); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add(Report{Start: 1, Sequence: 2, After: 1, Entries: []Entry{{Partition: 3, Heard: 400, Generation: 5, Durable: 600}, {Partition: 1023}}}.encode())
	f.Add(Question{Epoch: 7, Partitions: []partition.ID{0, 4, 1023}, Removed: []partition.NodeID{"n1-aaaa", "n2-bbbb"}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		message, err := decodeMessage(data)
		if err != nil {
			return
		}
		var again []byte
		switch m := message.(type) {
		case Report:
			again = m.encode()
		case Question:
			again = m.encode()
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	q := Question{Partitions: []partition.ID{0, 4, 5, 1023}, Removed: []partition.NodeID{"n1-aaaa", "n2-bbbb"}}
	f.Add(Answer{Bases: []Base{{Partition: 4, Undecided: 700, Holds: 3}, {Partition: 1023}}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := decodeAnswer(q, data); err == nil && !bytes.Equal(a.encode(), data) {
			t.Fatalf("%x became %x", data, a.encode())
		}
	})
}
